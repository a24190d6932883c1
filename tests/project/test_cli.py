"""The command line `thriftserve`, run as its users run it: another process, its output, its exit code."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from documents import ROOT
from thriftserve import __version__
from thriftserve.errors import ExitCode
from thriftserve.log import JsonFormatter, TextFormatter

COMMAND = str(Path(sys.executable).with_name("thriftserve"))
TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) [\w.]+ \d+ .+")


def thriftserve(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, with no settings of ours in its environment but `variables`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THRIFTSERVE_")}
    return subprocess.run(
        [COMMAND, *arguments], env=environ | variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_version() -> None:
    """--version tells the version of the package."""
    done = thriftserve("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"thriftserve {__version__}\n", "")


def test_help_teaches() -> None:
    """--help of the command has examples, every group of settings and the way to the documents."""
    done = thriftserve("serve", "--help")
    assert done.returncode == 0
    for part in ("examples:", "--model digits=/models/digits", "network:", "limits:", "TLS:", "commands.md"):
        assert part in done.stdout
    assert "serve" in thriftserve("--help").stdout


def test_help_in_a_narrow_encoding() -> None:
    """Help is readable where the terminal knows ASCII only."""
    assert thriftserve("serve", "--help", PYTHONIOENCODING="ascii").returncode == 0


def test_python_m_is_the_same() -> None:
    """`python -m thriftserve` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "thriftserve", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"thriftserve {__version__}\n"


def test_the_command_line_imports_nothing_heavy() -> None:
    """Help and mistakes are answered at once: neither TensorFlow nor numpy nor Pillow is imported for them."""
    code = (
        "import sys\n"
        "from thriftserve.cli import main\n"
        "assert main(['serve', '--print-settings']) == 0\n"
        "print([name for name in ('tensorflow', 'numpy', 'PIL', 'psutil', 'thrift') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_command_shows_help() -> None:
    """Without a command the help goes to stderr, and the exit code says that nothing was done."""
    done = thriftserve()
    assert done.returncode == ExitCode.CONFIG
    assert "usage: thriftserve" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--prot", "1"], "unknown option --prot; did you mean --port?"),
        (["serve", "--max-message-byte=1"], "unknown option --max-message-byte=1; did you mean --max-message-bytes?"),
        (["serve", "digits=/m"], "unexpected argument 'digits=/m': a model is given as --model digits=/m"),
        (["serve", "/m"], "unexpected argument '/m': a model is given as --model NAME=/m"),
        (["serve", "--port", "http"], "argument --port: 'http' must be a whole number"),
        (["serve", "--server-type", "TFast"], "invalid choice: 'TFast'"),
        (["serve", "--port"], "argument --port: expected one argument"),
        (["run"], "invalid choice: 'run'"),
    ],
)
def test_mistakes_in_usage(arguments: list[str], said: str) -> None:
    """A mistake in usage ends with code 2, one line that says what was wrong, and no traceback."""
    done = thriftserve(*arguments)
    assert done.returncode == ExitCode.CONFIG
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["--port", "70000"], {}, "flag --port: port is 70000: must lie between 0 and 65535"),
        ([], {"THRIFTSERVE_PORT": "x"}, "environment variable THRIFTSERVE_PORT: port is 'x': must be a whole number"),
        (["--config", "/none.toml"], {}, "file /none.toml: No such file or directory"),
        ([], {"THRIFTSERVE_CONFIG": "/none.toml"}, "file /none.toml: No such file or directory"),
    ],
)
def test_mistakes_in_settings(arguments: list[str], variables: dict[str, str], said: str) -> None:
    """A wrong setting is one line on stderr and exit code 2, whichever source it came from."""
    done = thriftserve("serve", "--model", "a=/m", *arguments, **variables)
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr.startswith(f"thriftserve: error: {said}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_print_settings(tmp_path: Path) -> None:
    """--print-settings shows each value that holds beside its source, and serves nothing."""
    config = tmp_path / "server.toml"
    config.write_text('threads = 3\n[models]\na = "/m/a"\n', encoding="utf-8")
    done = thriftserve(
        "serve", "--config", str(config), "--no-warmup", "--print-settings", THRIFTSERVE_READ_TIMEOUT_S="5"
    )
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert rows["threads"] == f"3 file {config}"
    assert rows["model"] == f"a=/m/a file {config}"
    assert rows["read_timeout_s"] == "5 environment variable THRIFTSERVE_READ_TIMEOUT_S"
    assert rows["warmup"] == "false flag --warmup"
    assert rows["tls_cert"] == "unset default"


def record(message: str, *, failed: bool = False) -> logging.LogRecord:
    info = None
    if failed:
        try:
            raise RuntimeError("model fell over")
        except RuntimeError:
            info = sys.exc_info()
    return logging.LogRecord("thriftserve.app", logging.WARNING, __file__, 1, message, None, info)


def test_text_log_lines() -> None:
    """A text line has moment, level, logger, pid and message, and stays one line whatever it quotes."""
    line = TextFormatter().format(record("bad name 'x\n2026-11-21T10:00:00.123Z error forged'"))
    assert TEXT_LINE.fullmatch(line)
    assert f" warning thriftserve.app {os.getpid()} bad name" in line
    assert "RuntimeError: model fell over" in TextFormatter().format(record("m", failed=True)).splitlines()[-1]


def test_json_log_lines() -> None:
    """A JSON line is one object with the same parts; the traceback is in it."""
    line = JsonFormatter().format(record("two\nlines", failed=True))
    assert "\n" not in line
    content = json.loads(line)
    assert content["message"] == "two\nlines"
    assert (content["level"], content["logger"], content["pid"]) == ("warning", "thriftserve.app", os.getpid())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", content["time"])
    assert "RuntimeError: model fell over" in content["error"]


def test_exit_codes_are_documented() -> None:
    """docs/reference/commands.md has a row for each exit code and for no other."""
    text = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", text, re.MULTILINE)
    assert rows == [(str(int(code)), code.name) for code in ExitCode]


@pytest.mark.parametrize(
    ("package", "start", "extra"),
    [
        ("google_crc32c", "thriftserve.cli serve --model a=/nowhere", "'.[server]'"),
        ("google", "thriftserve.cli model check /nowhere", "'.[server]'"),
        ("uvicorn", "thriftserve.cli gateway --backend 127.0.0.1:1", "'.[gateway]'"),
        ("rich", "thriftserve_bench.__main__ calls --quick", "'.[server,gateway,bench]'"),
    ],
)
def test_a_missing_extra_is_named(package: str, start: str, extra: str) -> None:
    """A command whose extra is not installed says in one line which one to install."""
    module, *arguments = start.split()
    code = f"import sys; sys.modules[{package!r}] = None; from {module} import main; sys.argv[1:] = {arguments!r}; "
    code += "sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert extra in done.stderr and done.stderr.count("\n") == 1, done.stderr
