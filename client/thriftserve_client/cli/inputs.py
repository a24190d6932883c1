"""Read arrays from the command line, and save outputs to files.

"x=[1,2]" | "x=@f.json" | "x=f.npy" | "@f.npz" --read_inputs--> {"x": array}
{"y": array} --save--> out.npz | DIR/y.npy
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from thriftserve_client.cli.flags import UsageError
from thriftserve_client.codec import to_array
from thriftserve_client.conversion import ConversionError, converted, storable
from thriftserve_client.errors import TensorError
from thriftserve_client.results import Array, SignatureInfo, TensorInfo
from thriftserve_idl.ttypes import DataType

_FORMATS = "expected NAME=JSON, NAME=@FILE.json, NAME=FILE.npy or @FILE.npz"


def read_inputs(texts: Sequence[str], signature: Callable[[], SignatureInfo]) -> dict[str, Array]:
    """Return the arrays of the `--input` flags, by name.

    `signature` returns the signature from the server; it is called only if a JSON value needs its element type.

    Raises:
        UsageError: a flag's format, file or value is wrong.
        OSError: a file can't be read.
    """
    arrays: dict[str, Array] = {}
    for text in texts:
        for name, array in _read_input(text, signature).items():
            if name in arrays:
                raise UsageError(f"input {name!r} is set twice: expected it once")
            arrays[name] = array
    return arrays


def _read_input(text: str, signature: Callable[[], SignatureInfo]) -> Mapping[str, Array]:
    if text.startswith("@") and text.endswith(".npz"):
        return _load(text[1:], ".npz")
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--input {text!r}: {_FORMATS}")
    if value.endswith(".npy"):
        return {name: _load(value, ".npy")[""]}
    source = Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
    return {name: _from_json(name, source, signature)}


def _load(path: str, suffix: str) -> dict[str, Array]:
    """Return the arrays of a .npz file, or the one of a .npy file under the name ""."""
    try:
        # No pickles: loading one runs code.
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"": loaded}
        else:
            with loaded:
                arrays = dict(loaded)
    except (ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"{path} is not a {suffix} file of plain arrays: {error}") from None
    if ("" in arrays) != (suffix == ".npy"):
        raise UsageError(f"{path} is not a {suffix} file")
    return arrays


def _from_json(name: str, source: str, signature: Callable[[], SignatureInfo]) -> Array:
    try:
        value = json.loads(source)
    except json.JSONDecodeError as error:
        raise UsageError(f"input {name!r} is not JSON ({error}): {source!r:.60}; {_FORMATS}") from None
    inputs = signature().inputs
    if not inputs:  # it declares nothing, or takes nothing, which the server says
        return _undeclared(name, value)
    if name not in inputs:
        known = ", ".join(inputs) or "none"
        raise UsageError(f"the signature has no input {name!r}: expected one of {known}")
    return _array(value, inputs[name])


def _array(value: Any, info: TensorInfo) -> Array:
    """Return the array of a JSON value, in the input's element type."""
    try:
        given = to_array(value)
        if given.dtype.kind == "b" and info.dtype is not DataType.BOOL and given.size:
            raise ConversionError(f"{json.dumps(value):.60} does not fit {info.dtype.name}")
        # Numbers that would change (1.5 for INT32, 300 for UINT8) are mistakes.
        return converted(given, info.dtype)
    except TensorError as error:
        raise UsageError(f"input {info.name!r} takes {info.dtype.name}: {error}") from None


def _undeclared(name: str, value: Any) -> Array:
    """Return the array of a JSON value for a model that declares no inputs: 1.5 is DOUBLE, 1 INT64, "a" STRING."""
    try:
        return to_array(value)
    except TensorError as error:
        raise UsageError(f"input {name!r}: {error}") from None


def save(outputs: Mapping[str, Array], path: str) -> str:
    """Write arrays to FILE.npz, or one .npy each to a directory; return a description of what was written.

    STRING arrays are written as numpy's fixed-width bytes, which need no pickle.

    Raises:
        UsageError: a STRING array has text that ends in a zero byte, which fixed-width bytes drop.
    """
    plain = {}
    for name, array in outputs.items():
        try:
            plain[name] = storable(array)
        except TensorError as error:
            raise UsageError(f"output {name!r} can't be saved: {error}") from None
    if path.endswith(".npz"):
        with open(path, "wb") as file:
            np.savez(file, **plain)  # type: ignore[arg-type]  # the names are outputs', never allow_pickle
        return path
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    for name, array in plain.items():
        np.save(directory / f"{name.replace('/', '_')}.npy", array)
    return f"{directory}/ ({len(plain)} files)"
