"""A TensorFlow SavedModel in a session of its own.

    VERSION_DIR  --open-->  SavedModelSession  --run(signature, inputs, outputs)-->  outputs, numpy

It loads what `tf.saved_model.save` of TensorFlow 2 writes and the exports of TensorFlow 1.x too:
variables, tables and init ops included. Open it in the process that runs it, after any fork.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thriftserve.errors import Internal, InvalidArgument, ModelLoadError, ThriftServeError
from thriftserve.models.devices import SessionOptions
from thriftserve.models.meta_graph import Endpoint, choose_tags, endpoints
from thriftserve.models.restored import unrestored_variables
from thriftserve.models.session import Array, Arrays
from thriftserve.models.session_config import config_proto, verify_device
from thriftserve.models.signature import Signature
from thriftserve.models.signature_call import SignatureCall, prepare

#: Sets of outputs that get a call of their own. Callers choose the sets, so there must be a limit; past it, all
#: outputs are run and the wanted ones picked.
MAX_CALLS = 64
#: Longest piece of TensorFlow's own words that an error carries, in characters.
MAX_REASON = 500


class SavedModelSession:
    """A loaded SavedModel. `run` may be called from several threads at once."""

    platform = "tensorflow"

    def __init__(self, session: Any, found: Mapping[str, Endpoint], options: SessionOptions) -> None:
        self._session = session
        self._endpoints = dict(found)
        self._in_callers_thread = options.inter_op_threads is None
        self._calls: dict[tuple[str, tuple[str, ...]], SignatureCall] = {}
        self._preparing = threading.Lock()
        self.signatures: Mapping[str, Signature] = {name: one.signature for name, one in found.items()}
        self.device = options.device

    @classmethod
    def open(cls, path: Path, options: SessionOptions) -> SavedModelSession:
        """Loads the SavedModel in a version directory.

        Raises:
            ModelLoadError: it is missing or damaged; the message names the path and the reason.
            DeviceError: the device of `options` is not there.
        """
        verify_device(options)
        session, meta_graph = _load(path, choose_tags(path), options)
        try:
            found = endpoints(meta_graph, path)
            _check_variables(session, found, path)
        except ModelLoadError:
            session.close()
            raise
        return cls(session, found, options)

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Array]:
        """Runs one signature for the outputs wanted; see `Session.run` of thriftserve.models.session."""
        key = (signature, tuple(outputs))
        try:
            call = self._calls.get(key) or self._prepare(key)
            return call(inputs)
        except ThriftServeError:
            raise
        except Exception as error:
            raise _translate(signature, error) from error

    def close(self) -> None:
        """Ends the session. Most of its memory stays with the process: TensorFlow keeps it for the next one."""
        self._calls.clear()
        self._session.close()

    def _prepare(self, key: tuple[str, tuple[str, ...]]) -> SignatureCall:
        signature, outputs = key
        endpoint = self._endpoints[signature]
        everything = (signature, tuple(endpoint.fetches))
        if len(self._calls) >= MAX_CALLS and key != everything:
            whole = self._calls.get(everything) or self._prepare(everything)
            return lambda inputs: {name: value for name, value in whole(inputs).items() if name in outputs}
        with self._preparing:
            call = self._calls.get(key)
            if call is None:
                call = prepare(self._session, endpoint, outputs, in_callers_thread=self._in_callers_thread)
                self._calls[key] = call
        return call


def _load(path: Path, tags: tuple[str, ...], options: SessionOptions) -> tuple[Any, Any]:
    import tensorflow as tf

    # The loader is marked "deprecated" for as long as TensorFlow 2 exists; its warning tells an operator nothing.
    tf.get_logger().setLevel("ERROR")
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config_proto(options))
    try:
        return session, tf.compat.v1.saved_model.loader.load(session, list(tags), str(path))
    except Exception as error:
        session.close()
        raise ModelLoadError(f"{path}: the SavedModel can't be loaded: {reason(error)}") from error


def _check_variables(session: Any, found: Mapping[str, Endpoint], path: Path) -> None:
    missing = unrestored_variables(session, {tensor for one in found.values() for tensor in one.fetches.values()})
    if missing:
        raise ModelLoadError(
            f"{path}: {len(missing)} variables that its signatures read are not restored from its files, "
            f"{missing[0]!r} among them; a Keras model must be written by model.export(path)"
        )


def _translate(signature: str, error: Exception) -> ThriftServeError:
    import tensorflow as tf

    # These two say that the values sent don't suit the graph; any other failure is not the caller's.
    if isinstance(error, tf.errors.InvalidArgumentError | tf.errors.OutOfRangeError):
        return InvalidArgument(f"the model refused the inputs of {signature!r}: {reason(error)}")
    return Internal(f"the model failed in {signature!r}: {type(error).__name__}: {reason(error)}")


def reason(error: Exception) -> str:
    """The first line of an error's own message, without the graph's traceback below it."""
    lines = str(getattr(error, "message", "") or error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
