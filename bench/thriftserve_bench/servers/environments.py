"""Environments of the peers: each has its own packages over the environment that this runs in.

    Peer  --environment-->  CACHE/NAME/bin/python, filled by pip when first needed  |  PeerMissing: why not

TensorFlow (600 MB) is not installed again for each: a .pth file adds this environment's packages after their own.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PIP_TIMEOUT_S = 600.0
_TAIL_LINES = 3


@dataclass(frozen=True)
class Peer:
    """A family of systems, and what is installed for it."""

    name: str
    #: As pip takes them; empty: this environment's packages will do.
    packages: tuple[str, ...] = ()


PEERS = (
    Peer("stock-thrift"),
    Peer("grpcio", ("grpcio>=1.70,<2",)),
    Peer("mosec", ("mosec>=0.9,<0.10",)),
    Peer("litserve", ("litserve>=0.2.10,<0.3",)),
)


class PeerMissing(Exception):
    """A peer can't be installed here; the message says why."""


def default_cache() -> Path:
    """Return the directory of all environments: below XDG_CACHE_HOME, or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "thriftserve-bench" / "peers"


def environment(peer: Peer, cache: Path, pip_flags: Sequence[str] = ()) -> Path:
    """Return the Python of a peer's environment, which is created if it is missing.

    Args:
        peer: the peer.
        cache: directory of all environments.
        pip_flags: more flags of `pip install`, such as an index.

    Raises:
        PeerMissing: pip is missing or failed; the next run tries again.
    """
    if not peer.packages:
        return Path(sys.executable)
    directory = cache / peer.name
    python = directory / "bin" / "python"
    stamp = directory / "installed.txt"
    wanted = "\n".join((sys.prefix, *peer.packages))
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
        try:
            _make(directory, python, peer.packages, pip_flags)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise PeerMissing(f"{peer.name} can't be installed: {_reason(error)}") from error
        stamp.write_text(wanted, encoding="utf-8")
    return python


def _make(directory: Path, python: Path, packages: Sequence[str], pip_flags: Sequence[str]) -> None:
    venv.create(directory, clear=True, with_pip=False, symlinks=True)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(directory), "platbase": str(directory)}))
    # addsitedir, not a plain path: .pth files there (an editable install's) count too.
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (own / "under.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *pip_flags, *packages],
        check=True,
        capture_output=True,
        text=True,
        timeout=_PIP_TIMEOUT_S,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "ERROR" in line] or error.stderr.splitlines()
        return " ".join(lines[-_TAIL_LINES:]).strip() or f"pip ended with {error.returncode}"
    return str(error)


def installed_version(python: Path, package: str) -> str:
    """Return the version of a package there, or an empty text if it has none."""
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    completed = subprocess.run([python, "-c", code, package], capture_output=True, text=True, check=False)
    return completed.stdout.strip()
