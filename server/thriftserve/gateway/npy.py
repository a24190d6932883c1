"""Tensors in binary formats: .npy, .npz and raw bytes.

    .npy --> one tensor    .npz --> several, by name    application/octet-stream --> one: its bytes, row by row

Arrays are not copied. Only numpy's header is parsed, never a pickle.
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
_ZIP = "application/zip"
#: Media types of the three formats, and their synonyms.
KINDS = {NPY: NPY, "application/npy": NPY, NPZ: NPZ, "application/npz": NPZ, _ZIP: NPZ, RAW: RAW}
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"
_MAX_HEADER_BYTES = 10_000

Array = np.ndarray[Any, np.dtype[Any]]


def query_parameters(content_type: str) -> tuple[str, ...]:
    """Return the query parameters that describe a body of this media type."""
    kind = KINDS.get(content_type)
    return ("input", "shape") if kind == RAW else ("input",) if kind == NPY else ()


def decode_arrays(
    request: HttpRequest, body: bytes, signature: SignatureInfo, types: Types, limit: int
) -> dict[str, Tensor]:
    """Return the tensors of a body of one of `KINDS`.

    Args:
        request: names the input (?input=) and the shape (?shape=1,224,224,3 or X-Tensor-Shape) if they are not obvious.
        body: the bytes.
        signature: the signature to run.
        types: the types of its inputs; None if it declares none.
        limit: bytes that a packed body may unpack to.

    Raises:
        Refusal: the body is not of its media type, or input or shape are not known.
    """
    kind = KINDS[request.content_type]
    if body.startswith(_ZIP_MAGIC) or kind == NPZ:
        return {name: _tensor(array, name, types) for name, array in _unzip(body, limit).items()}
    name = _input_name(request, signature)
    if body.startswith(_NPY_MAGIC) or kind == NPY:
        return {name: _tensor(npy_array(body), name, types)}
    info = signature.inputs.get(name)
    if info is None or info.dtype == DataType.STRING:
        raise Refusal(f"input {name!r} has no dtype of fixed size: send it as {NPY}, {NPZ} or JSON")
    return {name: _raw(request, body, info)}


def npy_array(body: bytes) -> Array:
    """Return the array of a .npy file, which shares the body's memory.

    Raises:
        Refusal: the file is damaged, or holds Python objects.
    """
    file = io.BytesIO(body)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        shape, fortran, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        content = memoryview(body)[file.tell() :]
        if math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"it has {len(content)} bytes: expected {list(shape)[:8]} of {dtype}")
        array = np.frombuffer(content, dtype) if len(content) else np.empty(0, dtype)
        return array.reshape(shape, order="F" if fortran else "C")
    # numpy parses the header as Python source: a damaged one raises any error of tokenizer and parser.
    except Exception as error:
        raise Refusal(f"the .npy file can't be read: {str(error)[:200]}") from None


def _unzip(body: bytes, limit: int) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > limit:
                raise Refusal(f"the .npz file unpacks to more than the limit of {limit} bytes", 413)
            return {member.filename.removesuffix(".npy"): npy_array(archive.read(member)) for member in members}
    except Refusal:
        raise
    # zipfile raises many errors for damaged archives, and documents few.
    except Exception as error:
        raise Refusal(f"the .npz file can't be read: {str(error)[:200]}") from None


def _tensor(array: Array, name: str, types: Types) -> Tensor:
    """Return the tensor of an array, in the declared type if the conversion loses no value."""
    declared = types.get(name) if types is not None else None
    try:
        if declared is not None and declared != DataType.STRING and data_type(array.dtype) != declared:
            if not np.can_cast(array.dtype, numpy_dtype(declared), "same_kind"):
                raise Refusal(f"input {name!r} is {array.dtype}: expected {declared.name}")
            array = converted(array, declared)
        return to_tensor(array, share=True)
    except TensorError as error:
        raise Refusal(f"input {name!r}: {error}") from None


def _input_name(request: HttpRequest, signature: SignatureInfo) -> str:
    name = request.query.get("input")
    if name:
        return name
    if len(signature.inputs) != 1:
        known = ", ".join(signature.inputs) or "none declared"
        raise Refusal(f"no input is named: set ?input= in the query; the signature has {known}")
    return next(iter(signature.inputs))


def _raw(request: HttpRequest, body: bytes, info: TensorInfo) -> Tensor:
    itemsize = numpy_dtype(info.dtype).itemsize
    text = request.query.get("shape") or request.headers.get("x-tensor-shape")
    shape = _implied_shape(info, len(body), itemsize) if text is None else _parse_shape(text)
    if math.prod(shape) * itemsize != len(body):
        raise Refusal(f"the body has {len(body)} bytes: expected {shape[:8]} of {info.dtype.name}")
    return Tensor(info.dtype, shape, body)


def _parse_shape(text: str) -> list[int]:
    try:
        shape = [int(part) for part in text.strip("[]() ").split(",") if part.strip()]
    except ValueError:
        shape = [-1]
    if any(not 0 <= size < 2**63 for size in shape) or len(shape) > 64:
        raise Refusal(f"the shape is {text[:100]!r}: expected sizes separated by commas, such as 1,224,224,3")
    return shape


def _implied_shape(info: TensorInfo, size: int, itemsize: int) -> list[int]:
    """Return the declared shape, with its one free size computed from the bytes."""
    free = None if info.shape is None else sum(dimension is None for dimension in info.shape)
    if info.shape is None or (free or 0) > 1:
        raise Refusal(f"input {info.name!r} has no fixed shape: set ?shape= in the query, such as ?shape=1,224,224,3")
    row = math.prod(dimension for dimension in info.shape if dimension is not None) * itemsize
    rows = size // row if row else 0
    return [rows if dimension is None else dimension for dimension in info.shape]


def accepted_kind(request: HttpRequest) -> str | None:
    """Return the first binary format that the Accept header names; None for JSON."""
    for part in request.headers.get("accept", "").split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type in KINDS and media_type != _ZIP:
            return KINDS[media_type]
    return None


def encode_arrays(outputs: Mapping[str, Array], kind: str) -> HttpReply:
    """Return a reply with the outputs as NPY, NPZ or RAW.

    Raises:
        Refusal: the format holds one output and there are several, or the output is text that it can't hold.
    """
    if kind == NPZ:
        return HttpReply(_zip(outputs), NPZ)
    if len(outputs) != 1:
        raise Refusal(f"no output is named: set ?output= in the query; the signature has {', '.join(sorted(outputs))}")
    ((name, array),) = outputs.items()
    if kind == NPY:
        file = io.BytesIO()
        np.lib.format.write_array(file, _storable(name, array), allow_pickle=False)
        return HttpReply(file.getbuffer(), NPY)
    if array.dtype == object:
        raise Refusal(f"output {name!r} is text, which has no fixed size: expected Accept: {NPY} or JSON", 406)
    shape = ",".join(map(str, array.shape))
    headers = {"x-tensor-name": quote(name), "x-tensor-dtype": array.dtype.name, "x-tensor-shape": shape}
    return HttpReply(np.ascontiguousarray(array).tobytes(), RAW, headers=headers)


def _zip(outputs: Mapping[str, Array]) -> memoryview:
    """Return a .npz file; numpy's own writer does not accept every output's name."""
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
        raise Refusal(f"output {name!r} can't be sent as {NPY} or {NPZ}: {error}: expected Accept: JSON", 406) from None
