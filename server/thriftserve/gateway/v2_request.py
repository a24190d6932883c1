"""What an inference request of the Open Inference Protocol asks for, beside its tensors.

    {"id", "parameters", "outputs"} --read--> InferRequest: id, signature, time; each output as values, bytes or classes

Null is as if left out, everywhere. Parameters of the protocol's extensions that would change the answer are done or
refused by name; others are let pass, as Triton does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_text import shown, without_nulls
from thriftserve_client.results import SignatureInfo
from thriftserve_idl.ttypes import DataType

#: Parameters that make a request one of a sequence, which no model here knows.
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")
_SHARED_MEMORY = "shared_memory_"
#: Triton keeps these names for itself.
_RESERVED = "triton_"


@dataclass(frozen=True)
class RequestedOutput:
    """How an output is wanted: its bytes behind the JSON; of each row of classes the `classes` best (0: the output)."""

    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request, its tensors apart.

    Attributes:
        request_id: comes back with the answer; None: there is none.
        signature: None: the default one.
        timeout_s: how long it may take; None: it does not say.
        outputs: those wanted, by name; empty: all of them, each as `every`.
        every: how outputs are wanted that say nothing of their own.
    """

    request_id: str | None = None
    signature: str | None = None
    timeout_s: float | None = None
    outputs: Mapping[str, RequestedOutput] = field(default_factory=dict)
    every: RequestedOutput = RequestedOutput()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> InferRequest:
        """Reads the JSON of a request, without its members that are null.

        Raises:
            Refusal: something has the wrong type, or can't be had here.
        """
        asked = parameters_of(document, "parameters")
        for name in _SEQUENCES:
            if asked.get(name):
                raise Refusal(f"parameters.{name} is {shown(asked[name])}: no model here has sequences, leave it out")
        if reserved := [name for name in asked if name.startswith(_RESERVED)]:
            raise Refusal(f"parameters.{reserved[0]}: names that begin with {_RESERVED} are reserved")
        every = RequestedOutput(_flag(asked, "binary_data_output", "parameters", False))
        return cls(
            _text(document, "id", "id"),
            _text(asked, "signature_name", "parameters.signature_name") or None,
            _seconds(asked),
            _outputs(document.get("outputs", []), every.binary),
            every,
        )

    def names(self) -> list[str] | None:
        """The outputs that are to be run; None: all of them."""
        return list(self.outputs) or None

    def check(self, signature: SignatureInfo) -> None:
        """Holds the request against what a signature declares.

        Raises:
            Refusal: an output is not there, or has no classes.
        """
        for name, wanted in self.outputs.items():
            info = signature.outputs.get(name)
            if info is None:
                raise Refusal(f"no output {name!r}; there are {', '.join(signature.outputs)}")
            if wanted.classes and (info.dtype in (DataType.STRING, DataType.BOOL) or info.shape == ()):
                raise no_classes(name, info.dtype, info.shape or ())

    def wanted(self, names: Iterable[str]) -> dict[str, RequestedOutput]:
        """How each output of an answer is wanted, in the order of the request."""
        return dict(self.outputs) or dict.fromkeys(names, self.every)


def no_classes(name: str, dtype: DataType, shape: tuple[int | None, ...]) -> Refusal:
    """That an output can't be given as its best classes."""
    sizes = [-1 if size is None else size for size in shape]
    return Refusal(
        f"output {name!r} is {dtype.name} {sizes}: classification takes numbers, with the classes in the last dimension"
    )


def parameters_of(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The "parameters" of a request, an input or an output.

    Raises:
        Refusal: they are no object, one is no text, number or truth value, or asks for shared memory.
    """
    found = value.get("parameters")
    if found is None:
        return {}
    if type(found) is not dict:
        raise Refusal(f"{where} is {shown(found)}: expected an object")
    found = without_nulls(found)
    for name, one in found.items():
        if type(one) not in (str, int, float, bool):
            raise Refusal(f"{where}.{name} is {shown(one)}: expected text, a number or a truth value")
        if name.startswith(_SHARED_MEMORY):
            raise Refusal(f"{where}.{name} is {shown(one)}: shared memory can't be used here, send and take the data")
    return found


def _outputs(value: Any, binary: bool) -> dict[str, RequestedOutput]:
    if type(value) is not list or not all(type(one) is dict and type(one.get("name")) is str for one in value):
        raise Refusal(f'"outputs" is {shown(value)}: expected a list of objects with a name each')
    found: dict[str, RequestedOutput] = {}
    for one in value:
        name = one["name"]
        if name in found:
            raise Refusal(f"output {name!r} is asked for more than once")
        where = f"output {name!r}: parameters"
        asked = parameters_of(one, where)
        classes = asked.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise Refusal(f"{where}.classification is {shown(classes)}: expected how many classes, a whole number")
        found[name] = RequestedOutput(_flag(asked, "binary_data", where, binary), classes)
    return found


def _flag(asked: Mapping[str, Any], name: str, where: str, default: bool) -> bool:
    value = asked.get(name, default)
    if type(value) is not bool:
        raise Refusal(f"{where}.{name} is {shown(value)}: expected true or false")
    return value


def _text(value: Mapping[str, Any], name: str, where: str) -> str | None:
    found = value.get(name)
    if found is not None and type(found) is not str:
        raise Refusal(f"{where} is {shown(found)}: expected text")
    return found


def _seconds(asked: Mapping[str, Any]) -> float | None:
    us = asked.get("timeout", 0)
    if type(us) is not int or us < 0:
        raise Refusal(f"parameters.timeout is {shown(us)}: expected microseconds, a whole number")
    return us / 1e6 if us else None
