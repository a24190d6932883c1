"""The contract's Predict service on one of Apache's own server classes, with the handler that its user would write.

python -m thriftserve_bench.servers.apache_model_host tensor MODEL/1 --server-type TThreadedServer  -->  a ready line
"""

from __future__ import annotations

import sys
from argparse import Namespace

import numpy as np

from thriftserve_bench.servers.apache_host import make_server
from thriftserve_bench.servers.host_flags import parse_model_flags
from thriftserve_bench.workloads.jobs import JOBS
from thriftserve_bench.workloads.user_model import UserModel, best_classes
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
    """The two methods that are called."""

    def __init__(self, flags: Namespace) -> None:
        self._flags = flags
        self._model: UserModel

    def load(self) -> None:
        """Load the model: in a process pool once in each worker, after the fork."""
        self._model = UserModel(self._flags.job, self._flags.model, self._flags.intra_op_threads)

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Map one tensor to one."""
        (x,) = request.inputs.values()
        y = self._model.run(np.frombuffer(x.content, np.float32).reshape(x.shape))
        answer = Tensor(dtype=DataType.FLOAT, shape=list(y.shape), content=y.tobytes())
        return PredictResponse(model_spec=request.model_spec, outputs={JOBS[self._flags.job].output: answer})

    def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Return the best classes of each file."""
        results = []
        for file in request.images:
            numbers, scores = best_classes(self._model.run(self._model.decode(file))[0])
            pairs = zip(numbers.tolist(), scores.tolist(), strict=True)
            classes = [Classification(label=str(number), score=score, class_id=number) for number, score in pairs]
            results.append(ImageClassification(classes))
        return ClassifyResponse(model_spec=request.model_spec, results=results)


def main() -> int:
    """Serve until killed; the model is loaded as soon as it may be."""
    flags = parse_model_flags(__doc__)
    handler = Handler(flags)
    pool = flags.server_type == "TProcessPoolServer"
    if not pool:
        handler.load()
    server = make_server(flags.server_type, Predict.Processor(handler), workers=flags.workers, threads=flags.threads)
    if pool:
        server.setPostForkCallback(handler.load)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
