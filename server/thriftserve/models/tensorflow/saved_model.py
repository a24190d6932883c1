"""A TensorFlow SavedModel in a session of its own.

    VERSION_DIR  --open-->  SavedModelSession  --run(signature, inputs, outputs)-->  outputs, numpy
                            --optimize-->  the same answers, faster, if the model allows it

It loads what `tf.saved_model.save` of TensorFlow 2 writes, and exports of TensorFlow 1.x, with variables, tables and
init ops. Open it in the process that runs it, after any fork.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thriftserve.errors import Internal, InvalidArgument, ModelLoadError, ThriftServeError
from thriftserve.models.devices import SessionOptions
from thriftserve.models.sample_inputs import random_inputs
from thriftserve.models.session import Array, Arrays, Session
from thriftserve.models.signature import Signature
from thriftserve.models.tensorflow import freeze
from thriftserve.models.tensorflow.calls import SignatureCall, SignatureCalls
from thriftserve.models.tensorflow.freeze import Answer, NotFrozen
from thriftserve.models.tensorflow.meta_graph import Endpoint, choose_tags, endpoints, graph_words
from thriftserve.models.tensorflow.session_config import config_proto, unrestored_variables, verify_device
from thriftserve.repository.image_settings import ImageSettings

AS_LOADED, FROZEN = "as loaded", "frozen"
#: Constants of a frozen model, once for each call of its own that a set of outputs gets, in bytes.
MOST_CONSTANT_BYTES = 256 << 20
#: Longest part of TensorFlow's own message that an error has, in characters.
MAX_REASON = 500
#: How TensorFlow begins the message of some errors, and the node's name after what happened.
_TITLE, _NODE = "Graph execution error:", "\n\t [["

log = logging.getLogger(__name__)


class SavedModelSession(Session):
    """A loaded SavedModel. `run` is thread-safe."""

    platform = "tensorflow"

    def __init__(
        self,
        session: Any,
        endpoints_by_name: Mapping[str, Endpoint],
        options: SessionOptions,
        words: Sequence[bytes] = (),
    ) -> None:
        self._session = session
        self._endpoints = dict(endpoints_by_name)
        self._in_callers_thread = options.inter_op_threads is None
        self._calls = SignatureCalls(session, self._endpoints, in_callers_thread=self._in_callers_thread)
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
            call = self._calls.known.get(key) or self._calls.make(key)
            return call(inputs)
        except ThriftServeError:
            raise
        except Exception as error:
            raise _translate(signature, error) from error

    def close(self) -> None:
        """End the session. Most of its memory stays with the process: TensorFlow keeps it for the next one."""
        self._calls.known.clear()
        self._session.close()

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
        frozen = freeze.freeze(self._session, self._endpoints)
        before = self._answers(self._calls, image)
        self._calls.known.clear()  # frees their memory for the new ones
        freeze.add(self._session, frozen)
        most = MOST_CONSTANT_BYTES // max(1, frozen.constant_bytes)
        calls = SignatureCalls(self._session, frozen.endpoints, in_callers_thread=self._in_callers_thread, most=most)
        after = self._answers(calls, image)
        for name, answers in before.items():
            difference = freeze.find_difference(name, answers, after[name])
            if difference:
                raise NotFrozen(difference)
        self._calls, self._endpoints = calls, dict(frozen.endpoints)
        freeze.release(self._session, frozen)
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
