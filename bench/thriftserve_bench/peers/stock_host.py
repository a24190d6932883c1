"""The contract's Predict service on one of Apache's own server classes, with the handler that its user would write.

python -m thriftserve_bench.peers.stock_host tensor MODEL/1 --server-type TThreadedServer  -->  a ready line
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

import numpy as np
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.server import TServer
from thrift.server.TNonblockingServer import TNonblockingServer
from thrift.server.TProcessPoolServer import TProcessPoolServer
from thrift.transport.TTransport import TFramedTransportFactory

from thriftserve_bench.apache_host import AnnouncedSocket
from thriftserve_bench.peers.host_flags import parse_host_flags
from thriftserve_bench.peers.user_model import UserModel, best
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import (
    Classification,
    ClassifyRequest,
    ClassifyResponse,
    DataType,
    ImageClassification,
    PredictRequest,
    PredictResponse,
    Tensor,
)


class Handler:
    """The two methods that are asked for."""

    def __init__(self, flags: Namespace) -> None:
        self._flags = flags
        self._model: UserModel

    def load(self) -> None:
        """Loads the model: in a process pool once in each worker, after the fork."""
        self._model = UserModel(self._flags.job, self._flags.model, self._flags.intra_op_threads)

    def predict(self, request: PredictRequest) -> PredictResponse:
        """One tensor in, one out."""
        ((_, given),) = request.inputs.items()
        y = self._model.run(np.frombuffer(given.content, np.float32).reshape(given.shape))
        answer = Tensor(dtype=DataType.FLOAT, shape=list(y.shape), content=y.tobytes())
        name = "y" if self._flags.job == "tiny" else "scores"
        return PredictResponse(model_spec=request.model_spec, outputs={name: answer})

    def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Files in, the best classes of each out."""
        results = []
        for file in request.images:
            ids, scores = best(self._model.run(self._model.decode(file))[0])
            pairs = zip(ids.tolist(), scores.tolist(), strict=True)
            results.append(
                ImageClassification([Classification(label=str(id_), score=one, class_id=id_) for id_, one in pairs])
            )
        return ClassifyResponse(model_spec=request.model_spec, results=results)


def make_server(flags: Namespace) -> Any:
    """Apache's server of that type, its model loaded as soon as it may be."""
    handler = Handler(flags)
    processor, protocol = Predict.Processor(handler), TBinaryProtocolAcceleratedFactory(fallback=False)
    if flags.server_type == "TProcessPoolServer":
        pool = TProcessPoolServer(processor, AnnouncedSocket(), TFramedTransportFactory(), protocol)
        pool.setNumWorkers(flags.workers)
        pool.setPostForkCallback(handler.load)
        return pool
    handler.load()
    if flags.server_type == "TNonblockingServer":
        server = TNonblockingServer(processor, AnnouncedSocket(), protocol, threads=flags.threads)
        server.prepare()
        return server
    return TServer.TThreadedServer(processor, AnnouncedSocket(), TFramedTransportFactory(), protocol, daemon=True)


if __name__ == "__main__":
    sys.exit(make_server(parse_host_flags(__doc__)).serve())
