"""A TensorFlow SavedModel in a session of its own.

    VERSION_DIR  --open-->  SavedModelSession  --run(signature, inputs, outputs)-->  outputs, numpy
                            --optimize-->  the same answers, faster, if the model allows it

It loads what `tf.saved_model.save` of TensorFlow 2 writes, and exports of TensorFlow 1.x, with variables, tables and
init ops. Open it in the process that runs it, after any fork.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.errors import Internal, InvalidArgument, ModelLoadError, ThriftServeError
from thriftserve.models.devices import SessionOptions
from thriftserve.models.sample_inputs import random_inputs
from thriftserve.models.session import Array, Arrays, Session, Signature
from thriftserve.models.tensorflow import freeze
from thriftserve.models.tensorflow.freeze import Answer, NotFrozen
from thriftserve.models.tensorflow.meta_graph import Endpoint, choose_tags, endpoints, graph_words
from thriftserve.models.tensorflow.session_config import config_proto, unrestored_variables, verify_device
from thriftserve.repository.image_settings import ImageSettings

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


AS_LOADED, FROZEN = "as loaded", "frozen"
#: Constants of a frozen model, once for each call of its own that a set of outputs gets, in bytes.
MOST_CONSTANT_BYTES = 256 << 20
#: Longest part of TensorFlow's own message that an error has, in characters.
MAX_REASON = 500
#: How TensorFlow begins the message of some errors, and the node's name after what happened.
_TITLE, _NODE = "Graph execution error:", "\n\t [["


class SavedModelSession(Session):
    """A loaded SavedModel. `run` is thread-safe."""

    platform = "tensorflow"
    takes_any_shape = True

    def __init__(
        self,
        session: Any,
        endpoints_by_name: Mapping[str, Endpoint],
        options: SessionOptions,
        words: Sequence[bytes] = (),
    ) -> None:
        self.tf_session = session
        self._endpoints = dict(endpoints_by_name)
        self._in_callers_thread = options.inter_op_threads is None
        self.calls = SignatureCalls(session, self._endpoints, in_callers_thread=self._in_callers_thread)
        self.signatures: Mapping[str, Signature] = {
            name: endpoint.signature for name, endpoint in endpoints_by_name.items()
        }
        self.device = options.device
        #: Strings of its graph.
        self.words = tuple(words)
        #: The outcome of load-time optimisation: "frozen", or "as loaded: " and why.
        self.optimized = f"{AS_LOADED}: not asked for"

    @classmethod
    def open(cls, path: Path, options: SessionOptions) -> SavedModelSession:
        """Load the SavedModel in a version directory.

        Raises:
            ModelLoadError: It is missing or damaged; the message names the path and the reason.
            DeviceError: There is no device as `options` say.
        """
        verify_device(options)
        session, meta_graph = _load(path, choose_tags(path), options)
        try:
            endpoints_by_name = endpoints(meta_graph, path)
            _check_variables(session, endpoints_by_name, path)
        except ModelLoadError:
            session.close()
            raise
        return cls(session, endpoints_by_name, options, graph_words(meta_graph))

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Array]:
        """Run one signature for the outputs wanted; see `Session.run`."""
        key = (signature, tuple(outputs))
        try:
            call = self.calls.known.get(key) or self.calls.make(key)
            return call(inputs)
        except ThriftServeError:
            raise
        except Exception as error:
            raise _translate(signature, error) from error

    def close(self) -> None:
        """End the session. Most of its memory stays with the process: TensorFlow keeps it for the next one."""
        self.calls.known.clear()
        self.tf_session.close()

    def optimize(self, image: ImageSettings | None = None) -> None:
        """Turn variables into constants if the answers stay the same; `optimized` gets the outcome.

        Call it once, before the first `run` of anybody.

        Args:
            image: how images become the image input, so that the inputs it is tried with have their size.
        """
        began = time.monotonic()
        try:
            summary = self._freeze(image)
            self.optimized = FROZEN
            log.info("%s in %.2f s", summary, time.monotonic() - began)
        except Exception as error:
            # Whatever goes wrong here, what was loaded still serves.
            self.optimized = f"{AS_LOADED}: {reason(error)}"
            log.info("the model's variables are not frozen: %s", reason(error))

    def _freeze(self, image: ImageSettings | None) -> str:
        frozen = freeze.freeze(self.tf_session, self._endpoints)
        before = self._answers(self.calls, image)
        self.calls.known.clear()  # frees their memory for the new ones
        freeze.add(self.tf_session, frozen)
        most = MOST_CONSTANT_BYTES // max(1, frozen.constant_bytes)
        calls = SignatureCalls(self.tf_session, frozen.endpoints, in_callers_thread=self._in_callers_thread, most=most)
        after = self._answers(calls, image)
        for name, answers in before.items():
            difference = freeze.find_difference(name, answers, after[name])
            if difference:
                raise NotFrozen(difference)
        self.calls, self._endpoints = calls, dict(frozen.endpoints)
        freeze.release(self.tf_session, frozen)
        return (
            f"froze {len(frozen.spared)} of {frozen.variables} variables, {frozen.constant_bytes / 2**20:.1f} MiB, "
            f"and found every signature's answers the same"
        )

    def _answers(self, calls: SignatureCalls, image: ImageSettings | None) -> dict[str, list[Answer]]:
        """Return the answers of every signature to inputs that are the same each time."""
        answers: dict[str, list[Answer]] = {}
        for name, signature in self.signatures.items():
            call = calls.make((name, tuple(signature.outputs)))
            answers[name] = [_answer(call, inputs) for inputs in random_inputs(signature, image)]
        return answers


def _answer(call: SignatureCall, inputs: Arrays) -> Answer:
    try:
        return call(inputs)
    except Exception as error:
        return type(error).__name__


def _load(path: Path, tags: tuple[str, ...], options: SessionOptions) -> tuple[Any, Any]:
    import tensorflow as tf

    # The loader is marked "deprecated" for as long as TensorFlow 2 exists; its warning is useless to an operator.
    tf.get_logger().setLevel("ERROR")
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config_proto(options))
    try:
        return session, tf.compat.v1.saved_model.loader.load(session, list(tags), str(path))
    except Exception as error:
        session.close()
        raise ModelLoadError(f"{path}: the SavedModel can't be loaded: {reason(error)}") from error


def _check_variables(session: Any, endpoints_by_name: Mapping[str, Endpoint], path: Path) -> None:
    tensors = {tensor for endpoint in endpoints_by_name.values() for tensor in endpoint.fetches.values()}
    missing = unrestored_variables(session, tensors)
    if missing:
        raise ModelLoadError(
            f"{path}: {len(missing)} variables that its signatures read are not restored from its files, "
            f"{missing[0]!r} among them; a Keras model must be written by model.export(path)"
        )


def _translate(signature: str, error: Exception) -> ThriftServeError:
    import tensorflow as tf

    # These two say that the values sent don't suit the graph; any other failure is not the client's.
    if isinstance(error, tf.errors.InvalidArgumentError | tf.errors.OutOfRangeError):
        return InvalidArgument(f"the model refused the inputs of {signature!r}: {reason(error)}")
    return Internal(f"the model failed in {signature!r}: {type(error).__name__}: {reason(error)}")


def reason(error: Exception) -> str:
    """Return the line of an error's message that says what happened, without the graph's traceback around it."""
    message = str(getattr(error, "message", "") or error).partition(_NODE)[0]
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1] if lines[0] == _TITLE else lines[0]
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
