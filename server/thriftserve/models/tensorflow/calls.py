"""The calls of a TensorFlow session, each made when it is first needed.

    (signature, outputs)  -->  SignatureCalls  -->  SignatureCall: inputs in, outputs out

To make one, TensorFlow cuts the graph to its part and rewrites that for speed: 0.05 to 0.5 s, once. Nothing else uses
the private part of TensorFlow's session API.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thriftserve.errors import InvalidArgument
from thriftserve.models.session import Array, Arrays
from thriftserve.models.tensorflow.meta_graph import Endpoint

#: One way to run a signature: its inputs by name in, the outputs wanted by name out.
SignatureCall = Callable[[Arrays], dict[str, Array]]
#: A signature's name and the outputs wanted.
Key = tuple[str, tuple[str, ...]]
#: Arrays in, values out; a value of rank 0 comes as a numpy scalar or as bytes.
GraphCall = Callable[..., list[Any]]
#: Sets of outputs that get a call of their own. Clients choose the sets, so there must be a limit; past it, all
#: outputs are run and the wanted ones picked.
MAX_CALLS = 64
#: RunOptions.inter_op_thread_pool: "run in the thread that calls".
CALLERS_THREAD = -1

log = logging.getLogger(__name__)


class SignatureCalls:
    """Calls into one session. Thread-safe.

    Args:
        session: an open `tf.compat.v1.Session`.
        endpoints: by the signatures' names.
        in_callers_thread: False: operations run in the session's inter-op pool.
        most: sets of outputs that get a call of their own, if that is to be fewer than MAX_CALLS.
    """

    def __init__(
        self, session: Any, endpoints: Mapping[str, Endpoint], *, in_callers_thread: bool, most: int | None = None
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._in_callers_thread = in_callers_thread
        self._most = MAX_CALLS if most is None else min(most, MAX_CALLS)
        self._making = threading.Lock()
        #: The calls made so far, to be looked up without a call of `make`.
        self.known: dict[Key, SignatureCall] = {}

    def make(self, key: Key) -> SignatureCall:
        """Return the call for a signature and the outputs wanted of it."""
        signature, outputs = key
        endpoint = self._endpoints[signature]
        everything = (signature, tuple(endpoint.fetches))
        if len(self.known) >= self._most and key != everything:
            call_all = self.known.get(everything) or self.make(everything)
            return lambda inputs: {name: value for name, value in call_all(inputs).items() if name in outputs}
        with self._making:
            call = self.known.get(key)
            if call is None:
                call = make_signature_call(self._session, endpoint, outputs, in_callers_thread=self._in_callers_thread)
                self.known[key] = call
        return call


def make_signature_call(
    session: Any, endpoint: Endpoint, outputs: Sequence[str], *, in_callers_thread: bool
) -> SignatureCall:
    """Make the call of one signature for one set of outputs; only their part of the graph will run."""
    first: dict[str, str] = {}
    for name, tensor in endpoint.feeds.items():
        first.setdefault(tensor, name)
    fetches = [endpoint.fetches[name] for name in outputs]
    needed = list(dict.fromkeys(tensor for tensor in fetches if tensor not in first))
    if not needed:
        return _aliased_call(_run_nothing, endpoint, first, tuple(outputs), needed)
    call = make_graph_call(session, list(first), needed, in_callers_thread=in_callers_thread)
    if len(first) == len(endpoint.feeds) and needed == fetches:
        return _plain_call(call, tuple(first.values()), tuple(outputs))
    return _aliased_call(call, endpoint, first, tuple(outputs), needed)


def _plain_call(call: GraphCall, names: tuple[str, ...], outputs: tuple[str, ...]) -> SignatureCall:
    """Return the call of a signature whose tensors have one name each, as nearly all do: so it is kept lean."""
    ndarray = np.ndarray

    def run(inputs: Arrays) -> dict[str, Array]:
        values = call(*[inputs[name] for name in names])
        return {
            name: value if type(value) is ndarray else as_array(value)
            for name, value in zip(outputs, values, strict=True)
        }

    return run


def _aliased_call(
    call: GraphCall, endpoint: Endpoint, first: dict[str, str], outputs: tuple[str, ...], needed: list[str]
) -> SignatureCall:
    """Return the call of a signature with a tensor that has several names, or is input and output at once.

    Args:
        call: runs the graph.
        endpoint: the signature.
        first: the first input of each tensor fed.
        outputs: names of the outputs wanted.
        needed: the tensors that `call` returns.
    """
    twins = [(name, first[tensor]) for name, tensor in endpoint.feeds.items() if first[tensor] != name]

    def run(inputs: Arrays) -> dict[str, Array]:
        for twin, name in twins:
            if not np.array_equal(inputs[twin], inputs[name]):
                raise InvalidArgument(f"inputs {name!r} and {twin!r} are one tensor of the model: send equal values")
        values = {tensor: inputs[name] for tensor, name in first.items()}
        values |= zip(needed, map(as_array, call(*values.values())), strict=True)
        return {name: values[endpoint.fetches[name]] for name in outputs}

    return run


def _run_nothing(*arrays: Any) -> list[Any]:
    """Stand for a graph call if every output wanted is an input: TensorFlow makes no callable of that."""
    return []


def as_array(value: Any) -> Array:
    """Return a value of TensorFlow's as an array; rank 0 comes as a numpy scalar, or as bytes for STRING."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)


def make_graph_call(
    session: Any, feeds: Sequence[str], fetches: Sequence[str], *, in_callers_thread: bool = True
) -> GraphCall:
    """Make a thread-safe call that runs part of a session's graph.

    Args:
        session: an open `tf.compat.v1.Session`.
        feeds: tensor names ("x:0"), each once.
        fetches: tensor names, none of them in `feeds`.
        in_callers_thread: False: operations run in the session's inter-op pool.
    """
    from tensorflow.core.protobuf import config_pb2

    options = config_pb2.RunOptions(inter_op_thread_pool=CALLERS_THREAD if in_callers_thread else 0)
    make = getattr(session, "_make_callable_from_options", None)
    if make is None:
        log.info("this TensorFlow has no fast session calls: Session.run is used, about 0.2 ms slower each")
        return _public_call(session, tuple(feeds), list(fetches), options)
    call: GraphCall = make(config_pb2.CallableOptions(feed=feeds, fetch=fetches, run_options=options))
    return call


def _public_call(session: Any, feeds: tuple[str, ...], fetches: list[str], options: Any) -> GraphCall:
    def call(*arrays: Any) -> list[Any]:
        try:
            values: list[Any] = session.run(fetches, dict(zip(feeds, arrays, strict=True)), options=options)
        except (TypeError, ValueError) as error:
            # Session.run checks what is fed before TensorFlow does, and raises Python's own errors.
            raise InvalidArgument(f"the model refused the inputs: {error}") from error
        return values

    return call
