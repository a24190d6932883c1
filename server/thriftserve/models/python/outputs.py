"""The answers and the example of a Python model, converted to the arrays that its signature declares.

    {"y": [0.5, 1]}, y FLOAT [None]  -->  Outputs.arrays  -->  {"y": float32 array}

An array of the declared type passes as it is. Other arrays, scalars, lists, tuples and whatever has `__array__` are
converted if no number is lost: a float is rounded to a narrower float type, everything else must come out equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thriftserve.errors import Internal
from thriftserve.models.session import Array, Signature, TensorSpec, describe_shape
from thriftserve_client.codec import numpy_dtype, to_array
from thriftserve_client.conversion import ConversionError, converted
from thriftserve_client.errors import TensorError

_NUMBERS = (int, float, np.number, np.bool_)


class Outputs:
    """Converts the answers of one signature of a Python model.

    Args:
        source: the model, for messages.
        signature: what it declares; an output that it does not declare passes unchecked.

    Raises:
        TensorError: It declares BFLOAT16, and ml_dtypes is not installed.
    """

    def __init__(self, source: str, signature: Signature) -> None:
        self._source = source
        self._signature = signature.name
        self._specs = signature.outputs
        self._dtypes = {name: numpy_dtype(spec.dtype) for name, spec in signature.outputs.items()}

    def arrays(self, answer: Any, wanted: Sequence[str]) -> dict[str, Array]:
        """Return the outputs wanted, or all that the model gave if `wanted` is empty.

        Raises:
            Internal: The answer is no dict, or an output is missing, no array, or not what is declared.
        """
        if not isinstance(answer, Mapping):
            kind = type(answer).__name__
            raise Internal(f"{self._source} answered {self._signature!r} with a {kind}, not a dict of arrays")
        arrays = {}
        for name in wanted or answer:
            if name not in answer:
                raise self._missing(answer, wanted)
            value, spec = answer[name], self._specs.get(name)
            if spec is None:
                arrays[name] = self._convert_undeclared(name, value)
            elif type(value) is np.ndarray and value.dtype == self._dtypes[name] and spec.accepts(value.shape):
                arrays[name] = value
            else:
                arrays[name] = self._convert(name, value, spec)
        return arrays

    def _missing(self, answer: Mapping[str, Any], wanted: Sequence[str]) -> Internal:
        missing = ", ".join(repr(name) for name in wanted if name not in answer)
        return Internal(f"{self._source} gave no output {missing}; it gave {', '.join(map(repr, answer)) or 'none'}")

    def _convert_undeclared(self, name: Any, value: Any) -> Array:
        if type(name) is not str:
            raise Internal(f"{self._source} named an output {name!r} of type {type(name).__name__}: expected a str")
        return value if type(value) is np.ndarray else self._array(name, value)

    def _convert(self, name: str, value: Any, spec: TensorSpec) -> Array:
        try:
            array = converted(self._array(name, value), spec.dtype)
        except ConversionError as error:
            raise self._mismatch(name, str(error)) from None
        if not spec.accepts(array.shape):
            fault = f"shape {describe_shape(array.shape)} does not fit {describe_shape(spec.shape)}"
            raise self._mismatch(name, fault)
        return array

    def _mismatch(self, name: str, why: str) -> Internal:
        return Internal(f"{self._source}: the output {name!r} does not match its signature: {why}")

    def _array(self, name: str, value: Any) -> Array:
        """Return the array of a value of any kind.

        Raises:
            Internal: It makes none.
        """
        kind = type(value).__name__
        where = f"{self._source} gave a {kind} for the output {name!r}"
        if isinstance(value, np.ma.MaskedArray) and value.mask.any():
            raise Internal(f"{where} with masked elements: give an array with a value for each")
        try:
            array = to_array(value)
        # An object's own __array__ may raise anything: a tensor on a GPU, say.
        except Exception as error:
            why = str(error) if isinstance(error, TensorError) else f"{kind} does not make an array: {error}"
            raise Internal(f"{self._source} gave no array for the output {name!r}: {why}") from error
        return array if array.dtype != object else _of_objects(array, where)


def read_example(signature: Signature, declared: Any) -> dict[str, Array]:
    """Return a model's example inputs of a signature as arrays, as a request would bring them.

    Raises:
        ValueError: They are no dict, or not what the signature declares.
    """
    if not isinstance(declared, Mapping):
        raise ValueError(f"example is a {type(declared).__name__}: expected a dict of inputs by name")
    if signature.validated and declared.keys() != signature.inputs.keys():
        given, expected = (", ".join(map(repr, sorted(names))) or "none" for names in (declared, signature.inputs))
        raise ValueError(f"example has the inputs {given}; the signature {signature.name!r} takes {expected}")
    return {name: _example_input(name, value, signature.inputs.get(name)) for name, value in declared.items()}


def _example_input(name: str, value: Any, spec: TensorSpec | None) -> Array:
    try:
        array = to_array(value)
        array = array if spec is None else converted(array, spec.dtype)
    except (ConversionError, TensorError) as error:
        raise ValueError(f"example: the input {name!r}: {error}") from error
    if spec is not None and not spec.accepts(array.shape):
        fault = f"shape {describe_shape(array.shape)} does not fit {describe_shape(spec.shape)}"
        raise ValueError(f"example: the input {name!r}: {fault}")
    if array.dtype.kind not in "OSU":
        return array
    texts = np.empty(array.size, object)
    texts[:] = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
    return texts.reshape(array.shape)


def _of_objects(array: Array, where: str) -> Array:
    """Return an array of Python's objects: text stays as it is, numbers become an array of numbers.

    Raises:
        Internal: Something in it is neither, or a number among text, or of more than 64 bits.
    """
    others = [each for each in array.ravel().tolist() if not isinstance(each, str | bytes)]
    if not others:
        return array
    odd = next((each for each in others if not isinstance(each, _NUMBERS)), others[0])
    if len(others) == array.size and isinstance(odd, _NUMBERS):
        numbers = np.asarray(others)
        if numbers.dtype != object:  # as it stays where an integer has more than 64 bits
            return numbers.reshape(array.shape)
        odd = max(others, key=abs)
    within = "" if array.ndim == 0 else f" with a {type(odd).__name__} in it, {odd!r:.60}"
    raise Internal(f"{where}{within}: expected numbers of at most 64 bits, or str and bytes")
