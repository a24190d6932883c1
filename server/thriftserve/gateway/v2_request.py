"""An inference request of the Open Inference Protocol, apart from its tensors.

    {"id", "parameters", "outputs"} --read--> InferRequest: id, signature, timeout, outputs

Null counts as absent everywhere. Parameters of the protocol's extensions that would change the reply are obeyed or
refused by name; others pass, as with Triton.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_text import show, without_nulls
from thriftserve_client.results import SignatureInfo
from thriftserve_idl.ttypes import DataType

#: Parameters of sequences of requests, which models here do not have.
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")
_SHARED_MEMORY = "shared_memory_"
#: Triton reserves names with this prefix.
_RESERVED = "triton_"


@dataclass(frozen=True)
class RequestedOutput:
    """A requested output: its bytes after the JSON if `binary`; its best classes if `classes` is above 0."""

    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request without its tensors.

    Attributes:
        request_id: is returned with the reply; None if absent.
        signature: None for the default one.
        timeout_s: None if absent.
        outputs: the requested outputs, by name; empty for all, each as `default`.
        default: how outputs without parameters of their own are returned.
    """

    request_id: str | None = None
    signature: str | None = None
    timeout_s: float | None = None
    outputs: Mapping[str, RequestedOutput] = field(default_factory=dict)
    default: RequestedOutput = RequestedOutput()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> InferRequest:
        """Read the JSON of a request, given without its members that are null.

        Raises:
            Refusal: a value has the wrong type, or asks for an extension that does not exist here.
        """
        parameters = parameters_of(document, "parameters")
        for name in _SEQUENCES:
            if parameters.get(name):
                raise Refusal(
                    f"parameters.{name} is {show(parameters[name])}: models here have no sequences, leave it out"
                )
        if reserved := [name for name in parameters if name.startswith(_RESERVED)]:
            raise Refusal(f"parameters.{reserved[0]}: names that begin with {_RESERVED} are reserved")
        default = RequestedOutput(_flag(parameters, "binary_data_output", "parameters", False))
        return cls(
            _text(document, "id", "id"),
            _text(parameters, "signature_name", "parameters.signature_name") or None,
            _timeout_s(parameters),
            _outputs(document.get("outputs", []), default.binary),
            default,
        )

    def output_names(self) -> list[str] | None:
        """Return the outputs to run; None for all."""
        return list(self.outputs) or None

    def check(self, signature: SignatureInfo) -> None:
        """Check the request against a signature.

        Raises:
            Refusal: the signature lacks an output, or classes are requested of one that has none.
        """
        for name, output in self.outputs.items():
            info = signature.outputs.get(name)
            if info is None:
                raise Refusal(f"output {name!r} does not exist: expected some of {', '.join(signature.outputs)}")
            if output.classes and (info.dtype in (DataType.STRING, DataType.BOOL) or info.shape == ()):
                raise no_classes(name, info.dtype, info.shape or ())

    def requested(self, names: Iterable[str]) -> dict[str, RequestedOutput]:
        """Return how to return each output, in the order of the request."""
        return dict(self.outputs) or dict.fromkeys(names, self.default)


def no_classes(name: str, dtype: DataType, shape: tuple[int | None, ...]) -> Refusal:
    """Return the refusal for an output that does not have classes."""
    sizes = [-1 if size is None else size for size in shape]
    return Refusal(
        f"output {name!r} is {dtype.name} {sizes}: classification expects numbers, classes in the last dimension"
    )


def parameters_of(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the "parameters" of a request, an input or an output, without nulls.

    Raises:
        Refusal: they are not an object, one is not text, number or truth value, or asks for shared memory.
    """
    parameters = value.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise Refusal(f"{where} is {show(parameters)}: expected an object")
    parameters = without_nulls(parameters)
    for name, parameter in parameters.items():
        if type(parameter) not in (str, int, float, bool):
            raise Refusal(f"{where}.{name} is {show(parameter)}: expected text, a number or a truth value")
        if name.startswith(_SHARED_MEMORY):
            raise Refusal(
                f"{where}.{name} is {show(parameter)}: shared memory is not supported here, send and receive the data"
            )
    return parameters


def _outputs(value: Any, binary: bool) -> dict[str, RequestedOutput]:
    if type(value) is not list or not all(type(item) is dict and type(item.get("name")) is str for item in value):
        raise Refusal(f'"outputs" is {show(value)}: expected a list of objects, each with a name')
    outputs: dict[str, RequestedOutput] = {}
    for item in value:
        name = item["name"]
        if name in outputs:
            raise Refusal(f"the request has output {name!r} more than once: expected it once")
        where = f"output {name!r}: parameters"
        parameters = parameters_of(item, where)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise Refusal(f"{where}.classification is {show(classes)}: expected a number of classes, 0 or more")
        outputs[name] = RequestedOutput(_flag(parameters, "binary_data", where, binary), classes)
    return outputs


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise Refusal(f"{where}.{name} is {show(value)}: expected true or false")
    return value


def _text(value: Mapping[str, Any], name: str, where: str) -> str | None:
    text = value.get(name)
    if text is not None and type(text) is not str:
        raise Refusal(f"{where} is {show(text)}: expected text")
    return text


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    us = parameters.get("timeout", 0)
    if type(us) is not int or us < 0:
        raise Refusal(f"parameters.timeout is {show(us)}: expected a whole number of microseconds")
    return us / 1e6 if us else None
