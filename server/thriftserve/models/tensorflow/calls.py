"""The calls of a session, each made when it is first wanted.

(signature, outputs)  -->  SignatureCalls  -->  SignatureCall: inputs in, outputs out

Making one has TensorFlow cut the graph to its part and rewrite that for speed: 0.05 to 0.5 s, once.
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

# One way to run a signature: its inputs by name in, the outputs wanted by name out.

SignatureCall = Callable[[Arrays], dict[str, Array]]


def prepare(session: Any, endpoint: Endpoint, outputs: Sequence[str], *, in_callers_thread: bool) -> SignatureCall:
    """Makes the call of one signature for one set of outputs; only their part of the graph will run."""
    first: dict[str, str] = {}
    for name, tensor in endpoint.feeds.items():
        first.setdefault(tensor, name)
    fetches = [endpoint.fetches[name] for name in outputs]
    wanted = list(dict.fromkeys(tensor for tensor in fetches if tensor not in first))
    if not wanted:
        return _shared(_nothing, endpoint, first, tuple(outputs), wanted)
    call = make_call(session, list(first), wanted, in_callers_thread=in_callers_thread)
    if len(first) == len(endpoint.feeds) and wanted == fetches:
        return _plain(call, tuple(first.values()), tuple(outputs))
    return _shared(call, endpoint, first, tuple(outputs), wanted)


def _plain(call: Callable[..., list[Any]], names: tuple[str, ...], outputs: tuple[str, ...]) -> SignatureCall:
    """Every tensor has one name: what nearly all signatures are, and so kept lean."""
    ndarray = np.ndarray

    def run(inputs: Arrays) -> dict[str, Array]:
        values = call(*[inputs[name] for name in names])
        return {
            name: value if type(value) is ndarray else as_array(value)
            for name, value in zip(outputs, values, strict=True)
        }

    return run


def _shared(
    call: Callable[..., list[Any]],
    endpoint: Endpoint,
    first: dict[str, str],
    outputs: tuple[str, ...],
    wanted: list[str],
) -> SignatureCall:
    """Some tensor has several names, or is input and output at once."""
    twins = [(name, first[tensor]) for name, tensor in endpoint.feeds.items() if first[tensor] != name]

    def run(inputs: Arrays) -> dict[str, Array]:
        for twin, name in twins:
            if not np.array_equal(inputs[twin], inputs[name]):
                raise InvalidArgument(f"inputs {name!r} and {twin!r} are one tensor of the model: send equal values")
        known = {tensor: inputs[name] for tensor, name in first.items()}
        values = call(*known.values())
        known.update(zip(wanted, map(as_array, values), strict=True))
        return {name: known[endpoint.fetches[name]] for name in outputs}

    return run


def _nothing(*arrays: Any) -> list[Any]:
    """Every output wanted is an input: TensorFlow makes no callable of that."""
    return []


def as_array(value: Any) -> Array:
    """A value of TensorFlow's as an array; rank 0 comes as a numpy scalar, or as bytes for STRING."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)


# The one file that touches TensorFlow's private session API.

#: Arrays in, values out; a value of rank 0 comes as a numpy scalar or as bytes.
Call = Callable[..., list[Any]]
#: RunOptions.inter_op_thread_pool: "run in the thread that calls".
CALLERS_THREAD = -1

log = logging.getLogger(__name__)


def make_call(session: Any, feeds: Sequence[str], fetches: Sequence[str], *, in_callers_thread: bool = True) -> Call:
    """Makes a callable that runs part of a session's graph; it is thread-safe.

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
        log.info("this TensorFlow has no fast session calls: Session.run stands in, about 0.2 ms slower each")
        return _public_call(session, tuple(feeds), list(fetches), options)
    call: Call = make(config_pb2.CallableOptions(feed=feeds, fetch=fetches, run_options=options))
    return call


def _public_call(session: Any, feeds: tuple[str, ...], fetches: list[str], options: Any) -> Call:
    def call(*arrays: Any) -> list[Any]:
        try:
            values: list[Any] = session.run(fetches, dict(zip(feeds, arrays, strict=True)), options=options)
        except (TypeError, ValueError) as error:
            # Session.run looks at what is fed before TensorFlow does, and says so in Python's own terms.
            raise InvalidArgument(f"the model refused the inputs: {error}") from error
        return values

    return call


#: Sets of outputs that get a call of their own. Callers choose the sets, so there must be a limit; past it, all
#: outputs are run and the wanted ones picked.
MAX_CALLS = 64

#: A signature's name and the outputs wanted.
Key = tuple[str, tuple[str, ...]]


class SignatureCalls:
    """Calls into one session by the endpoints given. Thread-safe.

    Args:
        session: an open `tf.compat.v1.Session`.
        endpoints: by the signatures' names.
        in_callers_thread: False: operations run in the session's inter-op pool.
        most: sets of outputs that get a call of their own, where that is to be fewer than MAX_CALLS.
    """

    def __init__(
        self, session: Any, endpoints: Mapping[str, Endpoint], *, in_callers_thread: bool, most: int | None = None
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._in_callers_thread = in_callers_thread
        self._most = MAX_CALLS if most is None else min(most, MAX_CALLS)
        self._making = threading.Lock()
        #: What was made so far; looked into first, for it costs no call.
        self.known: dict[Key, SignatureCall] = {}

    def make(self, key: Key) -> SignatureCall:
        """The call for a signature and the outputs wanted of it."""
        signature, outputs = key
        endpoint = self._endpoints[signature]
        everything = (signature, tuple(endpoint.fetches))
        if len(self.known) >= self._most and key != everything:
            whole = self.known.get(everything) or self.make(everything)
            return lambda inputs: {name: value for name, value in whole(inputs).items() if name in outputs}
        with self._making:
            call = self.known.get(key)
            if call is None:
                call = prepare(self._session, endpoint, outputs, in_callers_thread=self._in_callers_thread)
                self.known[key] = call
        return call
