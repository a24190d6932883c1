"""Tensors that come as they lie in memory, not as text.

    .npy  --> one tensor      .npz --> several by name      application/octet-stream --> one: its bytes, row by row

An array is not copied; a header of numpy's is read, never a pickle.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.lib import format as npy

from thriftserve.gateway.http import HttpReply, HttpRequest, Refusal
from thriftserve.gateway.json_decode import Types
from thriftserve_client.codec import data_type, numpy_dtype, to_tensor
from thriftserve_client.conversion import converted, storable
from thriftserve_client.errors import TensorError
from thriftserve_client.results import SignatureInfo, TensorInfo
from thriftserve_idl.ttypes import DataType, Tensor

NPY = "application/x-npy"
NPZ = "application/x-npz"
RAW = "application/octet-stream"
#: Media types of the three, and others that mean the same.
KINDS = {NPY: NPY, "application/npy": NPY, NPZ: NPZ, "application/npz": NPZ, "application/zip": NPZ, RAW: RAW}
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"
_MOST_HEADER_BYTES = 10_000

Array = np.ndarray[Any, np.dtype[Any]]


def query_of(content_type: str) -> tuple[str, ...]:
    """The query's parameters that say more of a body of that media type."""
    kind = KINDS.get(content_type)
    return ("input", "shape") if kind == RAW else ("input",) if kind == NPY else ()


def tensors_in(
    exchange: HttpRequest, body: bytes, signature: SignatureInfo, types: Types, limit: int
) -> dict[str, Tensor]:
    """The tensors of a body of one of `KINDS`.

    Args:
        exchange: names the input (?input=) and the shape (?shape=1,224,224,3 or X-Tensor-Shape) where they are needed.
        body: the bytes.
        signature: what it is for.
        types: the types of its inputs; None where nothing is declared.
        limit: the most bytes that a packed body may unpack to.

    Raises:
        Refusal: the body is not what it says, or does not say enough.
    """
    kind = KINDS[exchange.content_type]
    if body.startswith(_ZIP_MAGIC) or kind == NPZ:
        return {name: _tensor(array, name, types) for name, array in _unzipped(body, limit).items()}
    name = _input(exchange, signature)
    if body.startswith(_NPY_MAGIC) or kind == NPY:
        return {name: _tensor(npy_array(body), name, types)}
    info = signature.inputs.get(name)
    if info is None or info.dtype == DataType.STRING:
        raise Refusal(f"input {name!r} has no type of fixed size: send it as {NPY}, {NPZ} or JSON")
    return {name: _raw(exchange, body, info)}


def npy_array(body: bytes) -> Array:
    """The array of a .npy file, sharing its memory.

    Raises:
        Refusal: it is damaged, or holds objects.
    """
    file = io.BytesIO(body)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        shape, fortran, dtype = read(file, max_header_size=_MOST_HEADER_BYTES)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        content = memoryview(body)[file.tell() :]
        if math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"{len(content)} bytes do not make {list(shape)[:8]} of {dtype}")
        array = np.frombuffer(content, dtype) if len(content) else np.empty(0, dtype)
        return array.reshape(shape, order="F" if fortran else "C")
    # numpy reads the header as Python source: a damaged one raises whatever its tokenizer and parser do.
    except Exception as error:
        raise Refusal(f"the .npy file can't be read: {str(error)[:200]}") from None


def _unzipped(body: bytes, limit: int) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            if sum(one.file_size for one in members) > limit:
                raise Refusal(f"the .npz file unpacks to more than {limit} bytes, the limit", 413)
            return {one.filename.removesuffix(".npy"): npy_array(archive.read(one)) for one in members}
    except Refusal:
        raise
    # What zipfile raises of damaged archives is not told by its documentation, and is much.
    except Exception as error:
        raise Refusal(f"the .npz file can't be read: {str(error)[:200]}") from None


def _tensor(array: Array, name: str, types: Types) -> Tensor:
    """The tensor of an array, of the type declared where no value is lost by that."""
    declared = types.get(name) if types is not None else None
    try:
        if declared is not None and declared != DataType.STRING and data_type(array.dtype) != declared:
            if not np.can_cast(array.dtype, numpy_dtype(declared), "same_kind"):
                raise Refusal(f"input {name!r} is {array.dtype}: expected {declared.name}")
            array = converted(array, declared)
        return to_tensor(array, share=True)
    except TensorError as error:
        raise Refusal(f"input {name!r}: {error}") from None


def _input(exchange: HttpRequest, signature: SignatureInfo) -> str:
    name = exchange.query.get("input")
    if name:
        return name
    if len(signature.inputs) != 1:
        known = ", ".join(signature.inputs) or "none that are declared"
        raise Refusal(f"which input is it? Name it in the query, as in ?input=x; the signature has {known}")
    return next(iter(signature.inputs))


def _raw(exchange: HttpRequest, body: bytes, info: TensorInfo) -> Tensor:
    itemsize = numpy_dtype(info.dtype).itemsize
    text = exchange.query.get("shape") or exchange.headers.get("x-tensor-shape")
    shape = _implied(info, len(body), itemsize) if text is None else _shape(text)
    if math.prod(shape) * itemsize != len(body):
        raise Refusal(f"{len(body)} bytes do not make {shape[:8]} of {info.dtype.name}")
    return Tensor(info.dtype, shape, body)


def _shape(text: str) -> list[int]:
    try:
        shape = [int(part) for part in text.strip("[]() ").split(",") if part.strip()]
    except ValueError:
        shape = [-1]
    if any(not 0 <= size < 2**63 for size in shape) or len(shape) > 64:
        raise Refusal(f"the shape is {text[:100]!r}: expected sizes between commas, as in 1,224,224,3")
    return shape


def _implied(info: TensorInfo, size: int, itemsize: int) -> list[int]:
    """The declared shape, its one free size worked out."""
    free = None if info.shape is None else sum(one is None for one in info.shape)
    if info.shape is None or (free or 0) > 1:
        raise Refusal(f"which shape has input {info.name!r}? Say it in the query, as in ?shape=1,224,224,3")
    row = math.prod(one for one in info.shape if one is not None) * itemsize
    rows = size // row if row else 0
    return [rows if one is None else one for one in info.shape]


# Outputs as a client's Accept header wants them.

_ACCEPTED = {NPY: NPY, "application/npy": NPY, NPZ: NPZ, "application/npz": NPZ, RAW: RAW}


def accepted(exchange: HttpRequest) -> str | None:
    """The first of the binary kinds that the Accept header names; None: JSON will do."""
    for part in exchange.headers.get("accept", "").split(","):
        kind = _ACCEPTED.get(part.partition(";")[0].strip().lower())
        if kind is not None:
            return kind
    return None


def reply_of(outputs: Mapping[str, Array], kind: str) -> HttpReply:
    """The outputs as NPY, NPZ or RAW.

    Raises:
        Refusal: there are several and one was to be named, or it is text that the form does not hold.
    """
    if kind == NPZ:
        return HttpReply(_zipped(outputs), NPZ)
    if len(outputs) != 1:
        raise Refusal(f"which output? Name it in the query, as in ?output=y; there are {', '.join(sorted(outputs))}")
    ((name, array),) = outputs.items()
    if kind == NPY:
        file = io.BytesIO()
        np.lib.format.write_array(file, _storable(name, array), allow_pickle=False)
        return HttpReply(file.getbuffer(), NPY)
    if array.dtype == object:
        raise Refusal(f"output {name!r} is text, which has no fixed size: accept {NPY} or JSON", 406)
    shape = ",".join(map(str, array.shape))
    headers = {"x-tensor-name": quote(name), "x-tensor-dtype": array.dtype.name, "x-tensor-shape": shape}
    return HttpReply(np.ascontiguousarray(array).tobytes(), RAW, headers=headers)


def _zipped(outputs: Mapping[str, Array]) -> memoryview:
    """A .npz file; numpy's own writer has no way to say some names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _storable(name, array), allow_pickle=False)
    return file.getbuffer()


def _storable(name: str, array: Array) -> Array:
    try:
        return storable(array)
    except TensorError as error:
        raise Refusal(f"output {name!r} can't be sent as {NPY} or {NPZ}: {error}: accept JSON", 406) from None
