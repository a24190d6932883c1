"""Agents: commands go in and events come out, and a program never outlives whoever started it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fetch_server import File, FileServer
from packed_models import tar_of
from small_models import small
from thriftserve.remote.agent import AgentProcess
from thriftserve.remote.staging import Staging

START = """
import os, sys
sys.path.extend(sys.argv[1].split(os.pathsep))
from thriftserve.remote.agent import AgentProcess
agent = AgentProcess("echo_agent")
agent.send({"hello": 1})
events = agent.events()
next(events)
print(agent.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def agent() -> Iterator[AgentProcess]:
    process = AgentProcess("echo_agent")
    yield process
    process.close()


def test_commands_are_answered_in_order(agent: AgentProcess) -> None:
    """Each command arrives whole, whatever characters it has, and each event comes back."""
    events = agent.events()
    for command in ({"text": "zwölf\nZeilen"}, {"number": 3, "list": [1, None]}):
        agent.send(command)
        assert next(events) == {"echo": command}
    assert agent.exit_code is None
    assert agent.close() == 0
    assert list(events) == []


def test_what_a_library_prints_is_no_event(capfd: pytest.CaptureFixture[str]) -> None:
    """What is printed in the program goes to stderr, and the events go on."""
    agent = AgentProcess("echo_agent")  # not the fixture: capfd has fd 2 only from here on
    agent.send({"print": '{"landed": true}', "end": True})
    assert list(agent.events()) == [{"echo": {"print": '{"landed": true}', "end": True}}]
    agent.close()
    assert capfd.readouterr().err == '{"landed": true}\n'


def test_log_records_are_logged_here(agent: AgentProcess, caplog: pytest.LogCaptureFixture) -> None:
    """A record of the program becomes one of this process, with its logger and level; it is no event."""
    agent.send({"log": "100 % full", "end": True})
    assert len(list(agent.events())) == 1
    assert caplog.record_tuples == [("thriftserve.echo", logging.WARNING, "100 % full")]


def test_how_it_ended_is_known(capfd: pytest.CaptureFixture[str]) -> None:
    """A program that fails ends with 1 and its traceback on stderr; a killed one has the signal's number."""
    agent = AgentProcess("echo_agent")
    agent.send({"raise": "no such thing"})
    assert len(list(agent.events())) == 1
    assert agent.close() == 1
    assert "RuntimeError: no such thing" in capfd.readouterr().err
    other = AgentProcess("echo_agent")
    other.kill()
    assert list(other.events()) == []
    other.send({"too": "late"})  # nothing happens
    assert other.close() == -9


def test_it_ends_while_it_waits(agent: AgentProcess) -> None:
    """Closing ends a program that waits for commands, while another thread reads its events."""
    events: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: events.extend(agent.events()))
    reader.start()
    agent.send({"hello": 1})
    assert agent.close() == 0
    reader.join()
    assert events in ([], [{"echo": {"hello": 1}}])


def test_it_ends_with_its_parent() -> None:
    """A parent that is killed leaves no program behind."""
    line = [sys.executable, "-c", START, ":".join(sys.path)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    child = int(done.stdout)
    if psutil.pid_exists(child):
        psutil.wait_procs([psutil.Process(child)], timeout=30)
    assert not psutil.pid_exists(child)


def test_a_fetch_waits_for_its_predecessor_to_end(tmp_path: Path) -> None:
    """A fetch that is resumed while the agent of a killed controller still holds the staging directory waits for it."""
    version = small("half_plus_two") / "1"
    content = {str(path.relative_to(version)): path.read_bytes() for path in version.rglob("*") if path.is_file()}
    target = tmp_path / "half" / "2"
    with FileServer({"/m": File(tar_of(content))}) as server:
        agent = AgentProcess("thriftserve.remote.fetch_agent")
        with Staging(target):
            command = {"url": server.url("/m"), "target": str(target), "sha256": None}
            agent.send(command | {"max_bytes": 1 << 30, "timeout_s": 60.0})
            time.sleep(3)  # longer than it takes to start
            assert agent.exit_code is None
        events = list(agent.events())
    assert {"landed": True} in events, events
    agent.close()
    assert (target / "saved_model.pb").read_bytes() == content["saved_model.pb"]
