"""A model that is a Python class or function: the way to serve what is no SavedModel.

    "/models/greet.py:Greeter?n=8"  -->  Greeter(n="8").load(context)  -->  PythonSession.run  -->  .predict(inputs)
    "package.module:Class"          -->  the same, of an importable module

    class Doubler:
        signatures = {"inputs": {"x": ("float32", [None])}, "outputs": {"y": ("float32", [None])}}

        def predict(self, inputs):
            return {"y": inputs["x"] * 2}

A plain function `predict(inputs)` is the least model. A class may have what follows; a function may have `signatures`,
`labels`, `example`, `input_errors` and `batching` as its attributes:

    predict(inputs) -> outputs     required; dicts by name. Inputs are numpy arrays, STRING as object arrays of bytes;
                                   outputs are arrays, array-likes, numbers, text, or lists of these (`outputs.py`)
    load() or load(context)        called once, in the process that serves; `context` is a `ModelContext`
    close()                        called when it is no longer served
    signatures                     what it takes and gives (see `read_signatures`); without it, nothing is checked
    labels                         class names by class number
    predict_batch(list of inputs)  returns a list of outputs: the inputs of each of several requests, and its answer,
                                   as `predict` would take and return them; shapes may differ
    example                        inputs to try it with before the first client, or a method that returns them; for
                                   several signatures a dict of these by signature
    input_errors = (ValueError,)   exceptions that mean that the caller's inputs are wrong
    batching = False               requests never share a run
    batching = True                they do, by the author's word; unset: where that is shown to change no answer

A signature named other than "serving_default" is answered by the method of its own name, and several of its requests
by that name with "_batch". Without such a method, requests share one `predict` if every input and output is declared
with a free leading size. `predict` and `predict_batch` may be called from several threads at once. The class raises
`thriftserve.errors.InvalidArgument` to refuse inputs; any other exception but its `input_errors` is the model's
failure. Errors name the line of the model's file where they came from. A file may import others of its directory.
Modules are looked for where Python looks: one that is not installed needs its directory in PYTHONPATH.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import index
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from thriftserve.errors import Internal, InvalidArgument, ModelLoadError, ThriftServeError
from thriftserve.models.python.outputs import Outputs, read_example
from thriftserve.models.session import DEFAULT_SIGNATURE, Array, Arrays, Session, Signature, TensorSpec
from thriftserve.repository.versions import is_python_file
from thriftserve_client.codec import data_type
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType

_PARTS = {"inputs", "outputs"}
#: What a function that is a model may have as attributes.
_ATTRIBUTES = ("signatures", "labels", "example", "input_errors", "batching")
#: What a model's code may raise. SystemExit would end the worker without a word.
_FAILURES = (Exception, SystemExit)


@dataclass(frozen=True)
class ModelContext:
    """What `load(context)` is told."""

    #: The model's name in requests.
    name: str
    #: What this process may use: "cpu", or "gpu:1" as the server counts; the process sees no other GPU, so that
    #: frameworks call it number 0.
    device: str
    #: Where the model's file is.
    directory: Path
    #: Options of `--model` after the "?".
    options: Mapping[str, str]
    #: This run's share of the cores: threads that a framework should use.
    cores: int
    #: Logs as the server does.
    logger: logging.Logger


class PythonSession(Session):
    """A loaded Python model. Thread-safe if its class is.

    Args:
        model: the object of the model's class, loaded.
        source: "package.module:Class" or "file.py:Class", for messages.
        device: what the process claimed.
        file: the model's source file, for messages.

    Raises:
        TypeError: It has no method for a signature, its labels are no list, or its input_errors no exceptions.
        ValueError: Its `signatures` or its `example` can't be read.
    """

    platform = "python"

    def __init__(self, model: Any, source: str, device: str, file: str | None = None) -> None:
        self.model = model
        self._source = source
        self._file = file
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
        self._input_errors = _read_input_errors(getattr(model, "input_errors", ()))
        self.labels = _read_labels(getattr(model, "labels", None))
        self.examples = _read_examples(model, self.signatures)
        self.device = device

    @classmethod
    def open(cls, source: str, device: str, *, name: str = "model", cores: int = 1) -> PythonSession:
        """Import the class, make an object of it and load it.

        Args:
            source: "package.module:Class" or "/path/file.py:Class", with options for its constructor after a "?" as in
                a URL's query; each is passed as a keyword argument, a string. A file with one class or function needs
                no name of it.
            device: what the process claimed.
            name: the model's name in requests.
            cores: this run's share of the cores.

        Raises:
            ModelLoadError: Any step failed; the message has the source, the reason, and the line of the model's file.
        """
        target, _, query = source.partition("?")
        kind = _import_object(source, target)
        options = dict(parse_qsl(query, keep_blank_values=True))
        file = _file_of(kind)
        directory = Path(file).parent if file else Path.cwd()
        logger = logging.getLogger(f"{__name__}.{name}")
        context = ModelContext(name, device, directory, options, cores, logger)
        place = Path(target).name if is_python_file(target) else target
        try:
            return cls(_load(kind, context), place, device, file)
        except _FAILURES as error:
            at = _place_of(error, file) or _definition_of(kind, file)
            raise ModelLoadError(f"{_shown(source)}: {_said(error)}{f' ({at})' if at else ''}") from error

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
        except self._input_errors as error:
            raise InvalidArgument(str(error) or type(error).__name__) from error
        except _FAILURES as error:
            at = _place_of(error, self._file, short=True)
            place = f" ({at})" if at else ""
            raise Internal(f"{self._source} failed in {signature!r}: {_said(error)}{place}") from error


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


def _read_input_errors(declared: Any) -> tuple[type[Exception], ...]:
    kinds = declared if isinstance(declared, tuple | list) else (declared,)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise TypeError(f"input_errors is {declared!r}: expected exception classes, like (ValueError,)")
    return tuple(kinds)


def _read_examples(model: Any, signatures: Mapping[str, Signature]) -> dict[str, Arrays]:
    """Return a model's examples by signature: of the one that `predict` answers, or as its `example` names them."""
    declared = getattr(model, "example", None)
    if callable(declared):
        declared = declared()
    if declared is None:
        return {}
    by_signature = isinstance(declared, Mapping) and declared and all(isinstance(e, Mapping) for e in declared.values())
    if not by_signature:
        declared = {DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures)): declared}
    unknown = [name for name in declared if name not in signatures]
    if unknown:
        raise ValueError(f"example is for the signature {unknown[0]!r}; the model has {', '.join(signatures)}")
    return {name: read_example(signatures[name], inputs) for name, inputs in declared.items()}


class _FunctionModel:
    """A plain function as a model; its attributes are the model's, its options keyword arguments."""

    def __init__(self, function: Callable[..., Any], options: Mapping[str, str]) -> None:
        self.predict = partial(function, **options)
        for name in _ATTRIBUTES:
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))


def _load(kind: Callable[..., Any], context: ModelContext) -> Any:
    """Return a model, loaded. A class whose constructor takes nothing gets its options by `load(context)` alone."""
    if inspect.isfunction(kind):
        inspect.signature(kind).bind({}, **context.options)
        return _FunctionModel(kind, context.options)
    bare = _takes_context(getattr(kind, "load", None)) and not _takes_options(kind)
    model = kind() if bare else kind(**context.options)
    if _takes_context(getattr(model, "load", None)):
        model.load(context)
    elif hasattr(model, "load"):
        model.load()
    return model


def _takes_context(load: Any) -> bool:
    """Return whether a method, bound or not, has a parameter `context`, or one without a default."""
    with suppress(TypeError, ValueError):  # it is no function, or one that does not tell its parameters
        parameters = list(inspect.signature(load).parameters.values())[inspect.isfunction(load) :]
        return any(
            p.name == "context" or (p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD) for p in parameters
        )
    return False


def _takes_options(kind: Callable[..., Any]) -> bool:
    with suppress(ValueError):  # a class that does not tell its parameters
        return bool(inspect.signature(kind).parameters)
    return True


def _import_object(source: str, target: str) -> Callable[..., Any]:
    """Return the class or function that a source names."""
    place, separator, name = target.rpartition(":")
    if is_python_file(target):
        path = Path(place if separator and not name.endswith(".py") else target)
        return _member(source, _import_file(source, path), name if path != Path(target) else "")
    if not (place and name):
        raise ModelLoadError(f"python:{source}: write python:package.module:Class, or ./FILE.py:CLASS")
    try:
        module = importlib.import_module(place)
    # A module runs when it is imported: what its top level raises may be anything.
    except _FAILURES as error:
        at = _place_of(error, None)
        raise ModelLoadError(
            f"python:{source}: {place} can't be imported: {_said(error)}{f' ({at})' if at else ''} "
            "(a module that is not installed needs its directory in PYTHONPATH)"
        ) from error
    return _member(source, module, name)


def _import_file(source: str, path: Path) -> ModuleType:
    """Return the module of a file, run once in this process. Files beside it can be imported as well."""
    if not path.is_file():
        raise ModelLoadError(f"{source}: there is no such file")
    module = next((m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(path)), None)
    if module is not None:
        return module
    # Its own name, so that pickles of its classes can be read; not one that an import means already.
    name = path.stem
    if name in sys.modules or not name.isidentifier() or importlib.util.find_spec(name) is not None:
        name = f"{name}_{zlib.crc32(str(path).encode()):08x}"
    # Behind what is installed: a file called json.py must not get into the server's way.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except _FAILURES as error:
        del sys.modules[name]
        at = _place_of(error, str(path))
        raise ModelLoadError(f"{source}: {_said(error)}{f' ({at})' if at else ''}") from error
    return module


def _member(source: str, module: ModuleType, name: str) -> Callable[..., Any]:
    """Return a module's class or function of that name; without a name, its only public one."""
    names = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]
    if not name and len(names) != 1:
        has = ", ".join(names) or "no class or function"
        raise ModelLoadError(f"{source}: write {source.partition('?')[0].removesuffix(':')}:NAME; it has {has}")
    name = name or names[0]
    member: Callable[..., Any] | None = getattr(module, name, None)
    if member is None:
        raise ModelLoadError(f"{_shown(source)}: {module.__name__} has no {name}; it has {', '.join(names) or 'none'}")
    if not callable(member):
        raise ModelLoadError(f"{_shown(source)}: {name} is a {type(member).__name__}, not a class")
    return member


def _shown(source: str) -> str:
    return source if is_python_file(source) else f"python:{source}"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"


def _file_of(kind: Callable[..., Any]) -> str | None:
    with suppress(TypeError, OSError):  # what is built in has none
        return inspect.getsourcefile(kind)
    return None


def _place_of(error: BaseException, file: str | None, *, short: bool = False) -> str:
    """Return "FILE:LINE" of the last line of the model's file that led to an error; empty if none did."""
    if isinstance(error, SyntaxError) and error.filename:
        file, lines = error.filename, [error.lineno]
    else:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not file or not lines:
        return ""
    return f"{Path(file).name if short else file}:{lines[-1]}"


def _definition_of(kind: Callable[..., Any], file: str | None) -> str:
    with suppress(TypeError, OSError):
        return f"{file}:{inspect.getsourcelines(kind)[1]}" if file else ""
    return ""


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
