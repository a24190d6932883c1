"""Who may call the control port: the token, TLS, and what is refused before anybody could call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from documents import SUPPORT
from served import Served, command, environment
from thriftserve.controller import control_port_settings
from thriftserve.errors import ConfigError, ExitCode
from thriftserve.settings import ServeSettings
from thriftserve_client import ConnectionFailed, SslOptions, UnauthenticatedError
from thriftserve_client.control import Control

HERE = str(SUPPORT)
TOKEN = "correct horse battery staple"
OTHER = "another horse, another staple"


@dataclass(frozen=True)
class Guarded:
    """A server whose control port wants TLS and a token."""

    server: Served
    authority: Authority
    token_file: Path

    def control(self, token: str | None, *, secure: bool = True) -> Control:
        """An operator with that token."""
        ssl = SslOptions(self.authority.cert) if secure else None
        return Control("127.0.0.1", self.server.control_port, token=token, ssl=ssl, timeout_s=20)

    def command(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`thriftserve-client` for its control port, trusting its authority."""
        program = str(Path(sys.executable).with_name("thriftserve-client"))
        line = [program, "--port", str(self.server.control_port), "--tls-ca", self.authority.cert, *words]
        return subprocess.run(
            line, check=False, capture_output=True, text=True, timeout=60, env=environment(**variables)
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("door")
    authority = Authority(folder, "authority")
    own = authority.issue("server")
    token_file = folder / "token"
    token_file.write_text(TOKEN + "\n")
    arguments = ("--model", "twice=python:served_models:Doubler", "--server-type", "TThreadedServer")
    door = ("--control-port", "0", "--control-token-file", str(token_file))
    tls = ("--control-tls-cert", own.cert, "--control-tls-key", own.key)
    with Served(*arguments, *door, *tls, PYTHONPATH=HERE) as server:
        yield Guarded(server, authority, token_file)


def test_only_the_token_opens(guarded: Guarded) -> None:
    """Each method answers a call with the token, and none a call without it or with another; clients need none."""
    with guarded.control(TOKEN) as operator:
        assert operator.status("twice").versions[0].state == "AVAILABLE"
    for token, why in ((None, "carries no token"), ("", "carries no token"), (OTHER, "the token is wrong")):
        with guarded.control(token) as stranger:
            for call in (
                stranger.reload,
                lambda it=stranger: it.load("twice", "/models/twice"),
                lambda it=stranger: it.unload("twice"),
                lambda it=stranger: it.set_label("twice", "stable", 1),
                lambda it=stranger: it.status("twice"),
            ):
                with pytest.raises(UnauthenticatedError, match=why):
                    call()
    assert TOKEN not in guarded.server.log()
    with guarded.server.client() as client:
        assert client.models()[0].versions[0].labels == ()


def test_a_token_changes_while_it_serves(guarded: Guarded) -> None:
    """A new token in the file holds at once; one that is too short, or a file that is gone, changes nothing."""
    with guarded.control(TOKEN) as old, guarded.control(OTHER) as new:
        guarded.token_file.write_text(OTHER)
        assert new.status("twice").name == "twice"
        with pytest.raises(UnauthenticatedError):
            old.status("twice")
        guarded.token_file.write_text("short")
        assert new.status("twice").name == "twice"
        guarded.token_file.unlink()
        assert new.status("twice").name == "twice"
        guarded.token_file.write_text(TOKEN)
        assert old.status("twice").name == "twice"


def test_tls_on_one_side_only(guarded: Guarded) -> None:
    """Plain text to a port that speaks TLS, TLS to one that does not, and a wrong port each say what to look at."""
    with guarded.control(TOKEN, secure=False) as operator, pytest.raises(ConnectionFailed, match="and TLS as here"):
        operator.reload()
    wrong = SslOptions(guarded.authority.cert)
    with (
        Control("127.0.0.1", guarded.server.port, ssl=wrong, token=TOKEN, timeout_s=20) as operator,
        pytest.raises(ConnectionFailed, match="does it expect TLS"),
    ):
        operator.reload()
    program = str(Path(sys.executable).with_name("thriftserve-client"))
    line = [program, "--port", str(guarded.server.port), "reload"]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 1 and "reload need the control port" in done.stderr
    done = guarded.command("ping")
    assert done.returncode == 1 and "all others the serving port" in done.stderr


def test_the_command_line_carries_it(guarded: Guarded, tmp_path: Path) -> None:
    """With --token-file or THRIFTSERVE_CONTROL_TOKEN_FILE `label` works, without it ends with 1."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    held = str(tmp_path / "token")
    label = ("label", "twice", "stable", "1")
    for done in (
        guarded.command(*label, "--token-file", held),
        guarded.command(*label, THRIFTSERVE_CONTROL_TOKEN_FILE=held),
    ):
        assert (done.returncode, done.stderr) == (0, "")
        assert "stable" in done.stdout
    refused = guarded.command(*label)
    assert refused.returncode == 1
    assert "carries no token" in refused.stderr and "--token-file" in refused.stderr
    assert guarded.command(*label, "--token-file", "/nowhere").returncode == 2
    assert guarded.command("label", "twice", "stable", THRIFTSERVE_CONTROL_TOKEN_FILE=held).returncode == 0


@pytest.mark.parametrize(
    ("host", "more", "why"),
    [
        ("0.0.0.0", {}, "anybody who can connect to it could replace every model"),
        ("::", {}, "anybody who can connect to it could replace every model"),
        ("0.0.0.0", {"control_open": True}, None),
        ("localhost", {}, None),
        ("127.0.0.2", {}, None),
        ("0.0.0.0", {"token": TOKEN}, None),
        ("127.0.0.1", {"token": "0123456789abcde"}, "holds 15 bytes"),
        ("127.0.0.1", {"control_token_file": "/nowhere"}, "can't be read: No such file"),
        ("127.0.0.1", {"control_tls_cert": "/nowhere"}, "control_tls_cert '/nowhere' can't be used"),
        ("127.0.0.1", {"control_tls_key": "/nowhere"}, "control_tls_key is set without control_tls_cert"),
        ("0.0.0.0", {"control_tls_client_ca": "/nowhere"}, "control_tls_client_ca is set without control_tls_cert"),
    ],
)
def test_what_is_refused_at_the_start(tmp_path: Path, host: str, more: dict[str, Any], why: str | None) -> None:
    """Without a token, only this machine may be listened to; what is of no use is told with the setting's name."""
    given = dict(more)
    if "token" in given:
        (tmp_path / "token").write_text(given.pop("token"))
        given["control_token_file"] = str(tmp_path / "token")
    settings = ServeSettings(model=("m=/m",), control_port=0, control_host=host, **given)
    if why is None:
        door = control_port_settings(settings)
        assert door is not None and door.host == host
        return
    with pytest.raises(ConfigError, match=why):
        control_port_settings(settings)


def test_a_server_does_not_start_unguarded() -> None:
    """`thriftserve serve` with a control port for everybody ends with one line and the exit code of a wrong setting."""
    line = command(
        "serve", "--port", "0", "--model", "m=python:os:X", "--control-port", "0", "--control-host", "0.0.0.0"
    )
    done = subprocess.run(
        line, check=False, capture_output=True, text=True, timeout=60, env=environment() | {"COLUMNS": "80"}
    )
    assert done.returncode == ExitCode.CONFIG
    assert "control_token_file" in done.stderr and done.stderr.count("\n") == 1
    assert os.path.basename(line[0]) in done.stderr
