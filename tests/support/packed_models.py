"""A small real model, packed in every way that is fetched, and in ways that must not be.

packed("tar.gz")  -->  the archive's bytes
"""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from functools import cache, partial
from pathlib import Path

from small_models import small
from thriftserve import remote
from thriftserve.remote.fetch_agent import check_saved_model


@cache
def files() -> dict[str, bytes]:
    """The files of a version directory by their names, and one that makes it large enough to watch."""
    version = small("half_plus_two") / "1"
    found = {str(one.relative_to(version)): one.read_bytes() for one in version.rglob("*") if one.is_file()}
    return found | {"assets.extra/filler": random.Random(5).randbytes(600 << 10)}


@cache
def packed(kind: str, prefix: str = "") -> bytes:
    """The model as "tar", "tar.gz" or "zip", its files below `prefix`."""
    return zip_of(files(), prefix) if kind == "zip" else tar_of(files(), prefix, gzipped=kind == "tar.gz")


def tar_of(content: dict[str, bytes], prefix: str = "", *, gzipped: bool = True) -> bytes:
    """A tar file of these files."""
    members = [(tarfile.TarInfo(prefix + name), body) for name, body in content.items()]
    return tar_with(members, gzipped=gzipped)


def tar_with(members: list[tuple[tarfile.TarInfo, bytes]], *, gzipped: bool = True) -> bytes:
    """A tar file of these members."""
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1)
        if gzipped
        else tarfile.open(fileobj=buffer, mode="w")
    ) as archive:
        for info, body in members:
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def zip_of(content: dict[str, bytes], prefix: str = "") -> bytes:
    """A zip file of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, body in content.items():
            archive.writestr(prefix + name, body)
    return buffer.getvalue()


#: A fetch with the check that a server makes.
fetch = partial(remote.fetch, check=check_saved_model)


def holds_model(version: Path) -> bool:
    """Whether a version directory has every file of the model, byte by byte."""
    return {name: (version / name).read_bytes() for name in files() if (version / name).is_file()} == files()
