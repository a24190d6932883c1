"""deploy/: nginx, two gateways and two nodes under supervisor; gunicorn; killed in turn, under load."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from deployed import BODY, MODEL, PATH, PREDICT, Load, ask, needs, ports, ports_in_a_row, rendered, started, wait_until
from documents import blocks
from thriftserve_bench.process_tree import signal_process

#: supervisorctl takes a tenth of a second of processor time; the callers have only to be there.
ASK_AGAIN_S, PAUSE_S = 0.2, 0.005
PROGRAMS = ["node:node-1", "node:node-2", "gateway:gateway-1", "gateway:gateway-2", "nginx"]


def documented(program: str) -> list[str]:
    """The command of docs/how-to/deploy.md that begins with this program."""
    lines = [
        line for block in blocks("docs/how-to/deploy.md", "sh") for line in block.replace("\\\n", " ").splitlines()
    ]
    (line,) = {line for line in lines if line.startswith(program + " ")}
    return shlex.split(line)


def supervisorctl(place: Path, *arguments: str) -> str:
    """What supervisorctl says."""
    command = ["supervisorctl", "-c", str(place / "supervisord.conf"), *arguments]
    return subprocess.run(
        command, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, timeout=20, check=False
    ).stdout


def running(place: Path) -> dict[str, int]:
    """The pid of each program that supervisor says is running."""
    return {
        name: int(pid)
        for name, pid in re.findall(r"^(\S+)\s+RUNNING\s+pid (\d+)", supervisorctl(place, "status"), re.M)
    }


def children_of(pid: int) -> list[int]:
    """Its child processes."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: list[int]) -> bool:
    """Whether there is none of these."""
    return not any(map(alive, pids))


def is_new(place: Path, name: str, old: int) -> bool:
    """Whether a program runs in another process than this one."""
    time.sleep(ASK_AGAIN_S)
    return running(place).get(name, old) != old


def test_a_machine_comes_up_by_one_command_and_survives(tmp_path: Path) -> None:
    """Each process is killed in turn under load: it is started again; a client that repeats a request loses none."""
    needs("nginx", "supervisord", "ab")
    (front,), gateways, nodes = ports(1), ports_in_a_row(), ports_in_a_row()
    words = {f"127.0.0.1:909{digit}": f"127.0.0.1:{nodes}{digit}" for digit in (1, 2)}
    words |= {"--port 909%": f"--port {nodes}%", "--port 850%": f"--port {gateways}%"}
    rendered("supervisord.conf", tmp_path, words)
    rendered("thriftserve.toml", tmp_path, MODEL)
    rendered("nginx-run.sh", tmp_path, {})
    words = {f"127.0.0.1:850{digit}": f"127.0.0.1:{gateways}{digit}" for digit in (1, 2)}
    rendered("nginx.conf", tmp_path, words | {"listen 8080": f"listen 127.0.0.1:{front}"})
    command = [word.replace("/etc/thriftserve", str(tmp_path)) for word in documented("supervisord")]

    def whole() -> bool:
        """Every program runs, and both gateways reach both nodes."""
        health = [json.loads(ask(int(f"{gateways}{digit}"), "/readyz")[1])["status"] for digit in (1, 2)]
        if health != ["ok", "ok"] or ask(front, "/readyz")[0] != 200:
            return False
        return len(running(tmp_path)) == len(PROGRAMS)

    def call() -> None:
        assert ask(front, PREDICT, BODY) == (200, b'{"outputs":{"x":[1,2],"y":[2,4]}}')
        time.sleep(PAUSE_S)

    with started(command, tmp_path):
        wait_until(whole, "the machine is up")
        pids = running(tmp_path)
        with Load(call, tries=100, pause_s=0.1) as load:
            for name in PROGRAMS:
                load.goes_on()
                children = children_of(pids[name])
                signal_process(pids[name], signal.SIGKILL)
                wait_until(partial(all_gone, children), f"what {name} had started is gone")
                load.goes_on()
                wait_until(partial(is_new, tmp_path, name, pids[name]), f"{name} is back")
                wait_until(whole, f"{name} serves again")
        assert load.lost == []
        text = ask(front, "/metrics")[1].decode()
        counted = re.findall(r'thriftserve_gateway_requests_total{code="200",method="predict",.*} (\S+)', text)
        assert sum(map(float, counted)) >= load.done
        _bench(front, tmp_path)
        mine = Request(f"http://127.0.0.1:{front}/healthz", headers={"X-Request-Id": "mine"})
        with urlopen(mine, timeout=10) as answer:
            assert answer.headers["X-Request-Id"] == "mine"
        last = running(tmp_path)
    assert not [pid for pid in last.values() if alive(pid)]


def _bench(port: int, place: Path) -> None:
    """ab finds nothing to complain of."""
    (place / "body.json").write_text(json.dumps(BODY))
    options = ["-n", "300", "-c", "10", "-k", "-p", str(place / "body.json"), "-T", "application/json"]
    done = subprocess.run(
        ["ab", *options, f"http://127.0.0.1:{port}{PREDICT}"], capture_output=True, text=True, timeout=30, check=True
    )
    assert re.search(r"Failed requests:\s+0\n", done.stdout), done.stdout
    assert "Non-2xx" not in done.stdout


def test_gunicorn_runs_the_gateway(tmp_path: Path) -> None:
    """Two workers of gunicorn answer on one port and tell their metrics as one; a wrong variable is told."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn_worker")
    (port,) = ports(1)
    config = rendered("gunicorn.conf.py", tmp_path, {"127.0.0.1:8501": f"127.0.0.1:{port}"})
    words = {"gunicorn": str(Path(sys.executable).with_name("gunicorn")), "deploy/gunicorn.conf.py": str(config)}
    command = [words.get(word, word) for word in documented("gunicorn")]
    with started(command, tmp_path, THRIFTSERVE_GATEWAY_BACKEND="127.0.0.1:1"):
        wait_until(lambda: ask(port, "/healthz")[0] == 200, "gunicorn is up")

        def both() -> bool:
            text = ask(port, "/metrics")[1].decode()
            return text.count("thriftserve_gateway_process_resident_memory_bytes{") == 2

        wait_until(both, "two workers tell of each other")
        status, body = ask(port, "/readyz")
        assert (status, json.loads(body)["backends"][0]["backend"]) == (503, "127.0.0.1:1")
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            sock.sendall(b"GET /" + b"a" * 100_000)
            assert sock.recv(100).startswith(b"HTTP/1.1 431 ")
    log = (tmp_path / "gunicorn.log").read_text(encoding="utf-8")
    assert "Traceback" not in log and "Warning" not in log, log
    with started(command, tmp_path, THRIFTSERVE_GATEWAY_BACKENT="x") as process:
        assert process.wait(30) != 0
    assert "did you mean THRIFTSERVE_GATEWAY_BACKEND" in (tmp_path / "gunicorn.log").read_text(encoding="utf-8")
