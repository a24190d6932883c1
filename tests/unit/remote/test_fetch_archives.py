"""Archives that mean harm: nothing is written outside, nothing grows past its limits, whatever their entries say."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from packed_models import fetch, files, holds_model, tar_of, tar_with, zip_of
from thriftserve.errors import InvalidArgument, ResourceExhausted
from thriftserve.remote import Limits

SMALL = Limits(max_unpacked_bytes=4 << 20, max_entries=50)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """An entry of a tar file, without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The model with entries before it."""
    return tar_with([*entries, *((tarfile.TarInfo(name), body) for name, body in files().items())])


def zip_with(*entries: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """A zip file of entries as they are given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, body in entries:
            archive.writestr(info, body)
    return buffer.getvalue()


def zip_link(name: str, target: str) -> bytes:
    """A zip file with a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zip_with((info, target.encode()))


def zip_claiming(size: int) -> bytes:
    """A zip file whose directory says that its entry is `size` bytes long; it has a hundred."""
    packed = bytearray(zip_of({"a": b"x" * 100}))
    at = packed.rfind(b"PK\x01\x02")
    packed[at + 24 : at + 28] = size.to_bytes(4, "little")
    return bytes(packed)


def zip_flagged() -> bytes:
    """A zip file that says it is encrypted."""
    packed = bytearray(zip_of({"a": b"x"}))
    packed[packed.rfind(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


def zip_with_directory(size: int) -> bytes:
    """A zip file whose end says that its directory has `size` bytes."""
    packed = bytearray(zip_of({"a": b"x"}))
    at = packed.rfind(b"PK\x05\x06")
    packed[at + 12 : at + 16] = size.to_bytes(4, "little")
    return bytes(packed)


def zip_method(method: int) -> bytes:
    """A zip file packed by another method."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a", b"x" * 1000)
    return buffer.getvalue()


def long_header() -> bytes:
    """A tar file whose extended header claims 64 MiB."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 64 << 20
    import gzip

    return gzip.compress(info.tobuf() + b"\0" * (8 << 20))


def sparse() -> bytes:
    """A tar file with a file of holes."""
    info = tarfile.TarInfo("holes")
    info.type = tarfile.GNUTYPE_SPARSE
    return tar_with([(info, b"")])


TWICE = tar((tarfile.TarInfo("saved_model.pb"), b"other"))
CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: tar(member("/tmp/x")), "leads outside"),
    "up": (lambda: tar(member("a/../../x")), "leads outside"),
    "zip-absolute": (lambda: zip_of({"/etc/x": b""}), "leads outside"),
    "zip-up": (lambda: zip_of({"../x": b""}), "leads outside"),
    "no-name": (lambda: tar(member("")), "no name|two entries|damaged"),
    "soft-up": (lambda: tar(member("a", tarfile.SYMTYPE, "../../..")), "leads outside"),
    "soft-absolute": (lambda: tar(member("a", tarfile.SYMTYPE, "/etc/passwd")), "leads outside"),
    "soft-nowhere": (lambda: tar(member("a", tarfile.SYMTYPE, "b")), "leads outside, or nowhere"),
    "soft-loop": (lambda: tar(member("a", tarfile.SYMTYPE, "a")), "leads outside, or nowhere"),
    "through-soft": (lambda: tar(member("a", tarfile.SYMTYPE, "."), member("a/x")), "no directory"),
    "stairs": (
        lambda: tar(member("a", tarfile.SYMTYPE, "."), member("b", tarfile.SYMTYPE, "a/..")),
        "leads outside",
    ),
    "zip-soft": (lambda: zip_link("a", "/etc/passwd"), "leads outside"),
    "hard-out": (lambda: tar(member("a", tarfile.LNKTYPE, "/etc/passwd")), "leads outside"),
    "hard-unknown": (lambda: tar(member("a", tarfile.LNKTYPE, "b")), "no file in it"),
    "device": (lambda: tar(member("a", tarfile.CHRTYPE)), "neither a file nor a directory"),
    "fifo": (lambda: tar(member("a", tarfile.FIFOTYPE)), "neither a file nor a directory"),
    "sparse": (sparse, "neither a file nor a directory"),
    "twice": (lambda: TWICE, "two entries 'saved_model.pb'"),
    "twice-otherwise": (lambda: tar((tarfile.TarInfo("./variables/../saved_model.pb"), b"")), "leads outside"),
    "file-as-directory": (lambda: tar(member("a"), member("a/b")), "no directory"),
    "long-name": (lambda: tar(member("a" * 300)), "too long"),
    "deep": (lambda: tar(member("a/" * 60 + "b")), "too deep"),
    "many": (lambda: tar(*(member(f"a{one}") for one in range(60))), "more than 50 entries"),
    "bomb": (lambda: tar((tarfile.TarInfo("a"), bytes(8 << 20))), "unpacks to more than"),
    "zip-bomb": (lambda: zip_of({"a": bytes(8 << 20)}), "unpacks to more than"),
    "header-bomb": (long_header, "a header of"),
    "zip-directory-bomb": (lambda: zip_with_directory(1 << 30), "too many entries"),
    "zip-short": (lambda: zip_claiming(50), "damaged|more than the 50"),
    "zip-long": (lambda: zip_claiming(200), "100 of 200 bytes|damaged"),
    "zip-encrypted": (zip_flagged, "encrypted"),
    "zip-bzip2": (lambda: zip_method(zipfile.ZIP_BZIP2), "packed by method 12"),
    "cut-gzip": (lambda: tar()[:-9], "damaged"),
    "cut-zip": (lambda: zip_of(files())[:-30], "damaged"),
    "broken-gzip": (lambda: b"\x1f\x8b\x08" + b"\xff" * 600, "damaged"),
    "none": (lambda: tar_of({"readme.txt": b""}), "no saved_model.pb"),
    "several": (lambda: tar_of({"1/saved_model.pb": b"", "2/saved_model.pb": b""}), "several models"),
    "too-low": (lambda: tar_of({"a/b/c/saved_model.pb": b""}), "no saved_model.pb"),
}


@pytest.mark.parametrize("case", CASES)
def test_harm_is_refused(tmp_path: Path, case: str) -> None:
    """Each is refused in words; nothing of it is left anywhere, in the base path or outside."""
    make, told = CASES[case]
    archive, base = tmp_path / "archive", tmp_path / "in" / "base"
    archive.write_bytes(make())
    with pytest.raises((InvalidArgument, ResourceExhausted), match=told):
        fetch(archive.as_uri(), base / "1", limits=SMALL)
    assert sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")) == ["archive", "in", "in/base"]


def test_ratio_is_held(tmp_path: Path) -> None:
    """What unpacks to too many times its own size is refused long before the limit of its bytes."""
    (tmp_path / "m").write_bytes(tar((tarfile.TarInfo("a"), bytes(8 << 20)), (tarfile.TarInfo("b"), bytes(8 << 20))))
    fetch((tmp_path / "m").as_uri(), tmp_path / "base" / "1")
    tight = Limits(free_bytes=1 << 20, max_ratio=2)
    with pytest.raises(InvalidArgument, match="too much for its own size"):
        fetch((tmp_path / "m").as_uri(), tmp_path / "base" / "2", limits=tight)


def test_links_inside_are_kept(tmp_path: Path) -> None:
    """Links among the model's files are part of it; one that leads beside the model would break when it lands."""
    soft, hard = tarfile.TarInfo("m/1/assets/soft"), tarfile.TarInfo("m/1/assets/hard")
    soft.type, soft.linkname = tarfile.SYMTYPE, "../saved_model.pb"
    hard.type, hard.linkname = tarfile.LNKTYPE, "m/1/saved_model.pb"
    model = [(tarfile.TarInfo(f"m/1/{name}"), body) for name, body in files().items()]
    beside = tarfile.TarInfo("m/1/out")
    beside.type, beside.linkname = tarfile.SYMTYPE, "../readme"
    target = tmp_path / "base" / "1"
    (tmp_path / "good").write_bytes(tar_with([*model, (soft, b""), (hard, b"")]))
    (tmp_path / "bad").write_bytes(tar_with([*model, (tarfile.TarInfo("m/readme"), b""), (beside, b"")]))
    with pytest.raises(InvalidArgument, match="leads outside"):
        fetch((tmp_path / "bad").as_uri(), target)
    fetch((tmp_path / "good").as_uri(), target)
    assert holds_model(target)
    for name in ("soft", "hard"):
        assert (target / "assets" / name).read_bytes() == files()["saved_model.pb"]


def test_modes_are_our_own(tmp_path: Path) -> None:
    """An archive can't set owners or modes: no file is executable, or anybody else's."""
    loud = tarfile.TarInfo("loud")
    loud.mode, loud.uid = 0o6777, 12345
    (tmp_path / "m").write_bytes(tar((loud, b"")))
    landed = fetch((tmp_path / "m").as_uri(), tmp_path / "base" / "1") / "loud"
    assert landed.stat().st_mode & 0o7111 == 0
    assert landed.stat().st_uid == os.getuid()
