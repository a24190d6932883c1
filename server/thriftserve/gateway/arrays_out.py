"""Outputs as a client's Accept header wants them.

application/x-npy --> one output     application/x-npz --> all by name     application/octet-stream --> one, bare
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from thriftserve.gateway.arrays_in import NPY, NPZ, RAW
from thriftserve.gateway.exchange import Exchange, Reply
from thriftserve.gateway.failures import Refusal
from thriftserve_client.conversion import storable
from thriftserve_client.errors import TensorError

Array = np.ndarray[Any, np.dtype[Any]]
_ACCEPTED = {NPY: NPY, "application/npy": NPY, NPZ: NPZ, "application/npz": NPZ, RAW: RAW}


def accepted(exchange: Exchange) -> str | None:
    """The first of the binary kinds that the Accept header names; None: JSON will do."""
    for part in exchange.headers.get("accept", "").split(","):
        kind = _ACCEPTED.get(part.partition(";")[0].strip().lower())
        if kind is not None:
            return kind
    return None


def reply_of(outputs: Mapping[str, Array], kind: str) -> Reply:
    """The outputs as NPY, NPZ or RAW.

    Raises:
        Refusal: there are several and one was to be named, or it is text that the form does not hold.
    """
    if kind == NPZ:
        return Reply(_zipped(outputs), NPZ)
    if len(outputs) != 1:
        raise Refusal(f"which output? Name it in the query, as in ?output=y; there are {', '.join(sorted(outputs))}")
    ((name, array),) = outputs.items()
    if kind == NPY:
        file = io.BytesIO()
        np.lib.format.write_array(file, _storable(name, array), allow_pickle=False)
        return Reply(file.getbuffer(), NPY)
    if array.dtype == object:
        raise Refusal(f"output {name!r} is text, which has no fixed size: accept {NPY} or JSON", 406)
    shape = ",".join(map(str, array.shape))
    headers = {"x-tensor-name": quote(name), "x-tensor-dtype": array.dtype.name, "x-tensor-shape": shape}
    return Reply(np.ascontiguousarray(array).tobytes(), RAW, headers=headers)


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
