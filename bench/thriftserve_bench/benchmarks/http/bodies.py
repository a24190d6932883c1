"""What an image costs the gateway's process, by the form in which it comes, beside the standard library's json.

an image in four forms  --one connection-->  gateway  --Thrift-->  thriftserve serve (MobileNetV2)
its CPU a request  -->  BodyWindow
"""

from __future__ import annotations

import http.client
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve_bench import process_tree
from thriftserve_bench.processes import ServerProcess, clean_environment
from thriftserve_bench.records.http import BodyWindow, HttpRun
from thriftserve_bench.workloads.photos import photo, pixels

#: Of the builders; and the name it is served under.
KIND = "mobilenet_v2"
LISTS = "JSON lists"
STANDARD = "the standard library's json"
_PREDICT = f"/v1/models/{KIND}:predict"
_CLASSIFY = f"/v1/models/{KIND}:classify"
#: JSON lists take some 30 times as long as the others.
_LISTS_SHARE = 10
_TIMEOUT_S = 60.0


class BodyFailed(Exception):
    """An image got no answer, or another one than in another form; the message tells both."""


@dataclass(frozen=True)
class Form:
    """A body and where it goes."""

    name: str
    path: str
    content_type: str
    content: bytes


@dataclass(frozen=True)
class Door:
    """A gateway, and a connection to it."""

    gateway: ServerProcess
    connection: http.client.HTTPConnection

    def ask(self, form: Form) -> bytes:
        """One exchange: the answer's body.

        Raises:
            BodyFailed: its status is not 200.
        """
        self.connection.request("POST", form.path, form.content, {"content-type": form.content_type})
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise BodyFailed(f"{form.name}: status {response.status}: {answer[:200]!r}")
        return answer


def forms() -> list[Form]:
    """One image in every form: 224x224x3 FLOAT, 602 KB; as a file, 640x480, some 77 KB."""
    file = photo(1)
    image = pixels(file, draft=True)[None]
    npy = io.BytesIO()
    np.save(npy, image)
    return [
        Form("application/octet-stream", _PREDICT, "application/octet-stream", image.tobytes()),
        Form("application/x-npy", _PREDICT, "application/x-npy", npy.getvalue()),
        Form("image/jpeg", _CLASSIFY, "image/jpeg", file),
        Form(LISTS, _PREDICT, "application/json", json.dumps({"instances": image.tolist()}).encode()),
    ]


@contextmanager
def door(model: Path) -> Iterator[Door]:
    """A server with the model, a gateway before it.

    Args:
        model: base path.

    Raises:
        ServerFailed: one did not come up.
    """
    env = clean_environment(TF_CPP_MIN_LOG_LEVEL="2", CUDA_VISIBLE_DEVICES="-1")
    gateway = [sys.executable, "-m", "thriftserve", "gateway", "--port", "0"]
    with (
        ServerProcess(["--model", f"{KIND}={model}", "--port", "0"], env=env) as server,
        ServerProcess(["--backend", f"127.0.0.1:{server.port}"], command=gateway) as front,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=_TIMEOUT_S)
        try:
            yield Door(front, connection)
        finally:
            connection.close()


def measure_round(through: Door, every: list[Form], requests: int, run: HttpRun, told: Callable[[str], None]) -> None:
    """One window of each form, and one of the standard library's json with the lists' text.

    Args:
        through: the gateway.
        every: the forms.
        requests: of a window; of JSON lists a tenth.
        run: gets the windows.
        told: is told of each.

    Raises:
        BodyFailed: an image got no right answer.
    """
    for form in every:
        count = max(1, requests // _LISTS_SHARE) if form.name == LISTS else requests
        answer = through.ask(form)
        before = process_tree.own_cpu_s(through.gateway.pid)
        for _ in range(count):
            if len(through.ask(form)) != len(answer):
                raise BodyFailed(f"{form.name}: the same image got another answer")
        used_s = process_tree.own_cpu_s(through.gateway.pid) - before
        run.body(form.name, len(form.content), len(answer)).windows.append(BodyWindow(count, used_s))
        told(f"{form.name}: {used_s / count * 1e3:.2f} ms of the gateway's CPU")
        if form.name == LISTS:
            window = _standard(form.content, answer, count)
            run.body(STANDARD, len(form.content), len(answer)).windows.append(window)
            told(f"{STANDARD}: {window.cpu_s / count * 1e3:.2f} ms")


def check_answers(through: Door, every: list[Form]) -> None:
    """The tensor gives the same scores in every form, and the file a best class.

    Raises:
        BodyFailed: it does not.
    """
    found = {form.name: json.loads(through.ask(form)) for form in every}
    scores = {name: _scores(answer) for name, answer in found.items() if "results" not in answer}
    first_name, first = next(iter(scores.items()))
    for name, other in scores.items():
        if first.shape != other.shape or not np.allclose(first, other, atol=1e-4):
            raise BodyFailed(f"{name} and {first_name}: the same image has other scores")
    files = [answer["results"] for answer in found.values() if "results" in answer]
    if not all(len(one) == 1 and one[0] for one in files):
        raise BodyFailed("image/jpeg: no class")


def _scores(answer: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of the row and of the columnar form."""
    ((_, scores),) = answer.items()
    return np.asarray(scores, np.float64)


def _standard(text: bytes, answer: bytes, count: int) -> BodyWindow:
    """What the standard library takes for the same: text to tensor, and the answer to text."""
    scores = json.loads(answer)
    began = time.thread_time()
    for _ in range(count):
        np.asarray(json.loads(text)["instances"], np.float32)
        json.dumps(scores)
    return BodyWindow(count, time.thread_time() - began)
