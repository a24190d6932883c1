"""A model that is a Python class: the way to serve what is no SavedModel.

    "package.module:Class?size=8"  -->  Class(size="8").load()  -->  PythonSession.run  -->  Class.predict(inputs)

    class Doubler:
        signatures = {"inputs": {"x": ("float32", [None])}, "outputs": {"y": ("float32", [None])}}

        def predict(self, inputs):
            return {"y": inputs["x"] * 2}

The class may have:

    predict(inputs) -> outputs     required; dicts by name. Inputs are numpy arrays, STRING as object arrays of bytes;
                                   outputs are arrays, array-likes, numbers, text, or lists of these (`outputs.py`)
    load()                         called once, in the process that serves
    close()                        called when it is no longer served
    signatures                     what it takes and gives (see `read_signatures`); without it, nothing is checked
    labels                         class names by class number
    predict_batch(list of inputs)  returns a list of outputs: the inputs of each of several requests, and its answer,
                                   as `predict` would take and return them; shapes may differ
    batching = False               requests never share a run
    batching = True                they do, by the author's word; unset: where that is shown to change no answer

A signature named other than "serving_default" is answered by the method of its own name, and several of its requests
by that name with "_batch". Without such a method, requests share one `predict` if every input and output is declared
with a free leading size. `predict` and `predict_batch` may be called from several threads at once. The class raises
`thriftserve.errors.InvalidArgument` to refuse inputs; any other exception is the model's failure. Modules are looked
for where Python looks: one that is not installed needs its directory in PYTHONPATH.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from thriftserve.errors import Internal, ModelLoadError, ThriftServeError
from thriftserve.models.python.outputs import Outputs
from thriftserve.models.session import DEFAULT_SIGNATURE, Array, Arrays, Session, Signature, TensorSpec
from thriftserve_client.codec import data_type
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType

_PARTS = {"inputs", "outputs"}


class PythonSession(Session):
    """A loaded Python model. Thread-safe if its class is.

    Args:
        model: the object of the model's class, loaded.
        source: "package.module:Class", for messages.
        device: what the process claimed; only the status says it.

    Raises:
        TypeError: It has no method for a signature, or its labels are no list.
        ValueError: Its `signatures` can't be read.
    """

    platform = "python"

    def __init__(self, model: Any, source: str, device: str) -> None:
        self.model = model
        self._source = source
        declared = getattr(model, "signatures", None)
        self.signatures = (
            {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, validated=False)}
            if declared is None
            else read_signatures(declared)
        )
        self._methods = {name: _method(model, name) for name in self.signatures}
        batching = getattr(model, "batching", None)
        self.batching = None if batching is None else bool(batching)
        self._batch_methods = {name: method for name in self.signatures if (method := _batch_method(model, name))}
        self._outputs = {name: Outputs(source, signature) for name, signature in self.signatures.items()}
        self.labels = _read_labels(getattr(model, "labels", None))
        self.device = device

    @classmethod
    def open(cls, source: str, device: str) -> PythonSession:
        """Import the class, make an object of it and load it.

        Args:
            source: "package.module:Class", with options for its constructor after a "?" as in a URL's query; each is
                passed as a keyword argument, a string.
            device: what the process claimed; only the status says it.

        Raises:
            ModelLoadError: Any step failed; the message has the source and the reason.
        """
        target, _, query = source.partition("?")
        kind = _import_class(source, target)
        try:
            model = kind(**dict(parse_qsl(query, keep_blank_values=True)))
            if hasattr(model, "load"):
                model.load()
            return cls(model, target, device)
        except Exception as error:
            raise ModelLoadError(f"python:{source}: {type(error).__name__}: {error}") from error

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Array]:
        """Call the signature's method and return the outputs wanted, or all if `outputs` is empty."""
        answer = self._call(self._methods[signature], signature, dict(inputs))
        return self._outputs[signature].arrays(answer, outputs)

    def runs_each(self, signature: str) -> bool:
        """Return whether the model has a batch method for the signature, and may use it."""
        return self.batching is not False and signature in self._batch_methods

    def run_each(self, signature: str, inputs: Sequence[Arrays], outputs: Sequence[str]) -> list[dict[str, Array]]:
        """Call the signature's batch method: one dict of inputs a request in, one dict of outputs a request out.

        Raises:
            InvalidArgument: The model refused the inputs of one of them.
            Internal: The model failed, or did not answer each.
        """
        answers = self._call(self._batch_methods[signature], signature, [dict(own) for own in inputs])
        if not isinstance(answers, Sequence) or len(answers) != len(inputs):
            given = f"{len(answers)} answers" if isinstance(answers, Sequence) else f"a {type(answers).__name__}"
            raise Internal(f"{self._source} gave {given} for {len(inputs)} requests to {signature!r}")
        return [self._outputs[signature].arrays(answer, outputs) for answer in answers]

    def close(self) -> None:
        """Call the model's own close, if it has one."""
        if hasattr(self.model, "close"):
            self.model.close()

    def _call(self, method: Callable[[Any], Any], signature: str, inputs: Any) -> Any:
        try:
            return method(inputs)
        except ThriftServeError:
            raise
        except Exception as error:
            raise Internal(f"{self._source} failed in {signature!r}: {type(error).__name__}: {error}") from error


def read_signatures(declared: Any) -> dict[str, Signature]:
    """Read a model's `signatures`: one table of inputs and outputs, a dict of them by name, or Signature objects.

    Raises:
        ValueError: It has none of the three forms, or names an element type that requests can't carry.
    """
    if not isinstance(declared, Mapping) or not declared:
        raise ValueError(f"signatures is {declared!r}: it must be a dict with something in it")
    if set(declared) <= _PARTS:
        declared = {DEFAULT_SIGNATURE: declared}
    return {name: _read_signature(name, table) for name, table in declared.items()}


def _read_signature(name: str, declared: Any) -> Signature:
    if isinstance(declared, Signature):
        return declared
    if not isinstance(declared, Mapping) or not set(declared) <= _PARTS:
        raise ValueError(f"signature {name!r} is {declared!r}: it must be a dict of 'inputs' and 'outputs'")
    inputs, outputs = declared.get("inputs", {}), declared.get("outputs", {})
    return Signature(
        name,
        {key: _read_spec(key, spec) for key, spec in inputs.items()},
        {key: _read_spec(key, spec) for key, spec in outputs.items()},
    )


def _read_spec(name: str, declared: Any) -> TensorSpec:
    dtype, shape = declared if isinstance(declared, tuple | list) and len(declared) == 2 else (declared, None)
    return TensorSpec(name, _read_data_type(name, dtype), None if shape is None else _read_shape(name, shape))


def _read_shape(name: str, declared: Any) -> tuple[int | None, ...]:
    try:
        shape = tuple(None if size is None or size == -1 else index(size) for size in declared)
    except TypeError:
        shape = (-1,)
    if any(size is not None and size < 0 for size in shape):
        raise ValueError(f"{name!r} has the shape {declared!r}: expected a list of sizes, None where any will do")
    return shape


def _read_data_type(name: str, dtype: Any) -> DataType:
    if dtype == "string":
        return DataType.STRING
    if dtype == "bfloat16":
        return DataType.BFLOAT16
    try:
        if dtype is None:  # numpy's float64
            raise TypeError
        return data_type(np.dtype(dtype))
    except (TensorError, TypeError):
        raise ValueError(f"{name!r} has the element type {dtype!r}, which requests can't carry") from None


def _read_labels(declared: Any) -> tuple[str, ...]:
    if declared is None:
        return ()
    if isinstance(declared, str | bytes | Mapping) or not isinstance(declared, Iterable):
        raise TypeError(f"labels is a {type(declared).__name__}: expected a list of class names")
    return tuple(label.decode() if isinstance(label, bytes) else str(label) for label in declared)


def _import_class(source: str, target: str) -> Callable[..., Any]:
    module_name, separator, class_name = target.partition(":")
    if not (module_name and separator and class_name):
        raise ModelLoadError(f"python:{source}: write python:package.module:Class")
    try:
        module = importlib.import_module(module_name)
    # A module runs when it is imported: what its top level raises may be anything.
    except Exception as error:
        raise ModelLoadError(
            f"python:{source}: {module_name} can't be imported: {type(error).__name__}: {error} "
            "(a module that is not installed needs its directory in PYTHONPATH)"
        ) from error
    kind: Callable[..., Any] | None = getattr(module, class_name, None)
    if kind is None:
        raise ModelLoadError(f"python:{source}: {module_name} has no {class_name}")
    if not callable(kind):
        raise ModelLoadError(f"python:{source}: {class_name} is a {type(kind).__name__}, not a class")
    return kind


def _method_name(signature: str) -> str:
    return "predict" if signature == DEFAULT_SIGNATURE else signature


def _method(model: Any, signature: str) -> Callable[[dict[str, Array]], Any]:
    name = _method_name(signature)
    method: Callable[[dict[str, Array]], Any] | None = getattr(model, name, None)
    if not callable(method):
        raise TypeError(f"it has no method {name}(inputs) for the signature {signature!r}")
    return method


def _batch_method(model: Any, signature: str) -> Callable[[list[dict[str, Array]]], Any] | None:
    method = getattr(model, f"{_method_name(signature)}_batch", None)
    return method if callable(method) else None
