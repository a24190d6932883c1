"""Fetching a packed model by URL: what arrives, what is told, what cuts and bad servers do to it."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import threading
from pathlib import Path

import pytest

from certificates import Authority
from fetch_server import File, FileServer
from packed_models import fetch, files, holds_model, packed, tar_of
from thriftserve.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ThriftServeError,
    Unavailable,
)
from thriftserve.remote import Limits, Phase, Progress

#: Parts small enough that the model has many, and waits too short to notice.
QUICK = Limits(part_bytes=64 << 10, backoff_s=0.01, retries=3, stall_s=5)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A version directory to be; its base path is not there yet."""
    return tmp_path / "base" / "3"


def left(target: Path) -> list[str]:
    """What is in the base path."""
    return sorted(one.name for one in target.parent.iterdir())


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("prefix", ["", "digits/", "digits/00012/", "./"])
def test_every_packing_lands(target: Path, kind: str, prefix: str) -> None:
    """Each kind of archive, the model at its root or below one or two directories, becomes the version directory."""
    content = packed(kind, prefix)
    with FileServer({"/m": File(content)}) as server:
        assert fetch(server.url("/m"), target, sha256=hashlib.sha256(content).hexdigest(), limits=QUICK) == target
    assert holds_model(target)
    assert left(target) == ["3"]


def test_pieces_are_asked_for_side_by_side(target: Path) -> None:
    """Where the server gives ranges, each byte is asked for once, in parts, under the tag of the first answer."""
    content = packed("tar.gz")
    seen: list[Progress] = []
    with FileServer({"/m": File(content, pause_s=0.01)}) as server:
        fetch(server.url("/m"), target, limits=QUICK, progress=seen.append)
        asked = server.asked[1:]
        assert server.sent == len(content) + 1
    assert len(asked) == -(-len(content) // QUICK.part_bytes)
    assert {one.if_range for one in asked} == {'"one"'}
    assert [one.phase for one in seen][-1] is Phase.LANDED
    down = [one for one in seen if one.phase is Phase.DOWNLOADING and one.total]
    assert [one.done for one in down] == sorted(one.done for one in down)
    assert (down[-1].done, down[-1].total) == (len(content), len(content))
    assert {Phase.UNPACKING, Phase.CHECKING} < {one.phase for one in seen}


@pytest.mark.parametrize(
    "file",
    [
        File(ranges=False),
        File(ranges=False, etag=None),
        File(etag=None),
        File(etag='W/"weak"'),
        File(if_range=False),
        File(cut_after=30_000),
        File(ranges=False, cut_after=30_000, cuts=2),
        File(failures=[503, 429, 500]),
        File(extra=bytes(99)),
        File(lie=1000),
    ],
    ids=[
        "no-ranges",
        "nothing",
        "no-tag",
        "weak-tag",
        "no-if-range",
        "cuts",
        "cuts-no-ranges",
        "busy",
        "too-much",
        "too-long",
    ],
)
def test_servers_of_every_kind_are_borne(target: Path, file: File) -> None:
    """Ranges or none, tags or none, cuts, passing errors, lengths that are not true: the model arrives as it is."""
    file.content = packed("tar.gz")
    with FileServer({"/m": file}) as server:
        if file.lie and file.ranges:
            file.lie, file.then = 0, (1, File(file.content, lie=1000))
        fetch(server.url("/m"), target, limits=QUICK)
    assert holds_model(target)


def test_a_changed_file_begins_again(target: Path) -> None:
    """A new tag in the midst of it: nothing of the old file stays, no byte of the two is mixed."""
    old, new = os.urandom(len(packed("tar.gz"))), packed("tar.gz")
    with FileServer({"/m": File(old, then=(6, File(new, etag='"two"')))}) as server:
        fetch(server.url("/m"), target, limits=QUICK)
        assert {one.if_range for one in server.asked} == {None, '"one"', '"two"'}
    assert holds_model(target)


def test_a_cut_is_gone_on_from(target: Path) -> None:
    """Given up for lack of an answer, the next fetch asks for what is missing and for nothing else."""
    content = packed("tar.gz")
    file = File(content, cut_after=100_000, cuts=4)
    with FileServer({"/m": file}) as server:
        once = Limits(part_bytes=512 << 10, retries=0, connections=1, backoff_s=0.01)
        with pytest.raises(Unavailable, match="given up after 1 tries in a row"):
            fetch(server.url("/m"), target, limits=once)
        assert left(target) == [".fetching-3"]
        before, file.cuts = server.sent, 0
        fetch(server.url("/m"), target, limits=once, sha256=hashlib.sha256(content).hexdigest())
        assert server.sent - before == len(content) - 100_000
    assert holds_model(target)
    assert left(target) == ["3"]


def test_what_was_there_is_not_trusted_blindly(target: Path) -> None:
    """A download that was whole but is not the server's any more begins again; one with a wrong sum too."""
    content = packed("tar.gz")

    def stop(progress: Progress) -> None:
        if progress.phase is Phase.UNPACKING:
            raise InterruptedError("as a caller may")

    with FileServer({"/m": File(content)}) as server:
        for spoil in ("server", "disk"):
            with pytest.raises(FailedPrecondition, match="as a caller may"):
                fetch(server.url("/m"), target, limits=QUICK, progress=stop)
            if spoil == "server":
                server.files["/m"] = File(content, etag='"two"')
            else:
                (target.parent / ".fetching-3" / "download").write_bytes(os.urandom(len(content)))
            before = server.sent
            fetch(server.url("/m"), target, limits=QUICK, sha256=hashlib.sha256(content).hexdigest())
            assert server.sent - before >= len(content)
            assert holds_model(target)
            target.rename(target.parent / f"not-{spoil}")


@pytest.mark.parametrize(
    ("file", "limits", "error", "told"),
    [
        (File(failures=[404]), QUICK, NotFound, "answered 404"),
        (File(failures=[403]), QUICK, FailedPrecondition, "answered 403"),
        (File(failures=[500] * 9), QUICK, Unavailable, "given up after 4 tries"),
        (File(b"x" * 999, shifted=True), QUICK, Unavailable, "bytes from 1 on"),
        (File(b"x" * 999, ranges=False, lie=5), QUICK, Unavailable, "cut after 999 of 1004"),
        (File(b"x" * 999), Limits(max_bytes=998), ResourceExhausted, "999 bytes; at most 998"),
        (File(b"x" * 999, ranges=False), Limits(max_bytes=998), ResourceExhausted, "999 bytes; at most 998"),
        (File(b"x" * 999, stall_after=9), Limits(stall_s=0.1, retries=1, backoff_s=0.01), Unavailable, "timed out"),
        (File(b"x" * 999, stall_after=9), Limits(timeout_s=0.2), DeadlineExceeded, "not done within 0.2 s"),
        (File(redirect="/m"), QUICK, FailedPrecondition, "in circles"),
        (File(redirect="file:///etc/passwd"), QUICK, FailedPrecondition, "neither http nor https"),
        (File(b""), QUICK, InvalidArgument, "is empty"),
        (File(b"<html>"), QUICK, InvalidArgument, "neither tar, tar.gz nor zip"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_bad_servers_are_told(
    target: Path, file: File, limits: Limits, error: type[ThriftServeError], told: str
) -> None:
    """What can't be mended ends with a typed error that says what was wrong, and leaves no version."""
    with FileServer({"/m": file}) as server, pytest.raises(error, match=told):
        fetch(server.url("/m"), target, limits=limits)
    assert not target.exists()


def test_wrong_sum_is_refused(target: Path) -> None:
    """What has another SHA-256 is not unpacked, and not kept."""
    with FileServer({"/m": File(packed("zip"))}) as server, pytest.raises(InvalidArgument, match="SHA-256 of its"):
        fetch(server.url("/m"), target, limits=QUICK, sha256="0" * 64)
    assert left(target) == []


def test_https_is_verified(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose certificate nobody trusts is refused at once; one that is trusted may not lead to plain http."""
    authority = Authority(tmp_path, "authority")
    own = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)
    with FileServer({"/m": File(packed("zip"))}) as server:
        server.files["/plain"] = File(redirect=server.url("/m"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        url = server.url("/m").replace("http:", "https:")
        with pytest.raises(FailedPrecondition, match="certificate is not trusted"):
            fetch(url, target, limits=QUICK)
        monkeypatch.setenv("SSL_CERT_FILE", authority.cert)
        with pytest.raises(FailedPrecondition, match=r"redirects to http://.*: not followed"):
            fetch(url.replace("/m", "/plain"), target, limits=QUICK)
        fetch(url, target, limits=QUICK)
    assert holds_model(target)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://h/m.zip", "fetched from http"),
        ("http:///m.zip", "names no host"),
        ("file://there/m.zip", "three slashes"),
        ("http://h:x/m", "no URL"),
        ("http://h/a b", "spaces"),
        ("", "fetched from"),
    ],
)
def test_wrong_urls_are_told(target: Path, url: str, told: str) -> None:
    """A URL that can't be fetched is refused before anything is made."""
    with pytest.raises(InvalidArgument, match=told):
        fetch(url, target)
    with pytest.raises(InvalidArgument, match="64 hexadecimal digits"):
        fetch("http://127.0.0.1/", target, sha256="abc")
    assert not target.parent.exists()


def test_files_are_fetched_too(tmp_path: Path, target: Path) -> None:
    """file:/// gives an archive the same way; what is not there, or a directory, is told."""
    archive = tmp_path / "a model.zip"
    archive.write_bytes(packed("zip"))
    fetch(archive.as_uri(), target, sha256=hashlib.sha256(packed("zip")).hexdigest())
    assert holds_model(target)
    with pytest.raises(FailedPrecondition, match="is there already"):
        fetch(archive.as_uri(), target)
    with pytest.raises(NotFound, match="no such file"):
        fetch("file:///no/such.zip", target.with_name("4"))
    with pytest.raises(InvalidArgument, match="is no file"):
        fetch(tmp_path.as_uri(), target.with_name("4"))
    assert left(target) == ["3"]


def test_one_fetch_of_a_version_at_a_time(target: Path) -> None:
    """While a version is fetched, a second fetch of it is refused at once, and the first one is not disturbed."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: Progress) -> None:
        begun.set()
        go_on.wait()

    with FileServer({"/m": File(packed("zip"))}) as server:
        first = threading.Thread(target=fetch, args=(server.url("/m"), target), kwargs={"progress": hold})
        first.start()
        begun.wait()
        with pytest.raises(FailedPrecondition, match="being fetched already"):
            fetch(server.url("/m"), target)
        go_on.set()
        first.join()
    assert holds_model(target)


def test_secrets_stay_out_of_logs(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    """User and password go to the server asked and not to where it redirects; no log has them, or a signed query."""
    caplog.set_level(logging.INFO)
    with FileServer({"/m?sig=s3cret": File(packed("zip"))}) as there, FileServer({}) as server:
        server.files["/m?sig=s3cret"] = File(redirect=there.url("/m?sig=s3cret"))
        fetch(server.url("/m?sig=s3cret", user="me:p4ss@"), target, limits=QUICK)
        assert {one.authorization for one in server.asked} == {"Basic bWU6cDRzcw=="}
        assert {one.authorization for one in there.asked} == {None}
    assert "fetched http://127.0.0.1" in caplog.text
    assert "s3cret" not in caplog.text
    assert "p4ss" not in caplog.text


@pytest.mark.parametrize(
    "damage", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_damaged_models_do_not_land(tmp_path: Path, target: Path, damage: str, how: str) -> None:
    """An archive that lacks a part of the model, or has half of one, is refused by that part's name."""
    content = dict(files())
    body = content.pop(damage)
    if how == "cut":
        content[damage] = body[: len(body) // 2]
    (tmp_path / "m.tar.gz").write_bytes(tar_of(content))
    with pytest.raises(InvalidArgument, match=Path(damage).name):
        fetch((tmp_path / "m.tar.gz").as_uri(), target)
    assert left(target) == []


def test_the_callers_check_decides(tmp_path: Path, target: Path) -> None:
    """A check of the caller's own sees the unpacked model, and what it refuses does not land."""
    (tmp_path / "m.zip").write_bytes(packed("zip", "digits/7/"))
    seen: list[Path] = []

    def refuse(path: Path) -> None:
        assert holds_model(path)
        seen.append(path)
        raise InvalidArgument("not today")

    with pytest.raises(InvalidArgument, match="not today"):
        fetch((tmp_path / "m.zip").as_uri(), target, check=refuse)
    assert [one.name for one in seen] == ["7"]
    assert left(target) == []
