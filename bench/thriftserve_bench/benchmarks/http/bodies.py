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
from thriftserve_bench.processes import TENSORFLOW_ON_CPU, ServerProcess, clean_environment
from thriftserve_bench.records.http import LISTS_FORM, STANDARD_JSON, BodyWindow, HttpRun
from thriftserve_bench.workloads.jobs import WrongAnswer
from thriftserve_bench.workloads.photos import photo, pixels

#: Of the builders; and the name it is served under.
KIND = "mobilenet_v2"
_PREDICT = f"/v1/models/{KIND}:predict"
_CLASSIFY = f"/v1/models/{KIND}:classify"
#: JSON lists take some 30 times as long as the others.
_LISTS_SHARE = 10
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Form:
    """A body and where it goes."""

    name: str
    path: str
    content_type: str
    content: bytes


@dataclass(frozen=True)
class GatewayClient:
    """A gateway, and a connection to it."""

    gateway: ServerProcess
    connection: http.client.HTTPConnection

    def post(self, form: Form) -> bytes:
        """Send a body and return the answer's body.

        Raises:
            WrongAnswer: its status is not 200.
        """
        self.connection.request("POST", form.path, form.content, {"content-type": form.content_type})
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise WrongAnswer(f"{form.name}: status {response.status}: {answer[:200]!r}")
        return answer


def make_forms() -> list[Form]:
    """Return one image in every form: 224x224x3 FLOAT, 602 KB; as a file, 640x480, some 77 KB."""
    file = photo(1)
    image = pixels(file, draft=True)[None]
    npy = io.BytesIO()
    np.save(npy, image)
    return [
        Form("application/octet-stream", _PREDICT, "application/octet-stream", image.tobytes()),
        Form("application/x-npy", _PREDICT, "application/x-npy", npy.getvalue()),
        Form("image/jpeg", _CLASSIFY, "image/jpeg", file),
        Form(LISTS_FORM, _PREDICT, "application/json", json.dumps({"instances": image.tolist()}).encode()),
    ]


@contextmanager
def gateway_client(model: Path) -> Iterator[GatewayClient]:
    """Yield a connection to a gateway before a server with the model.

    Args:
        model: base path.

    Raises:
        ServerFailed: one of them did not start.
    """
    env = clean_environment(**TENSORFLOW_ON_CPU)
    gateway = [sys.executable, "-m", "thriftserve", "gateway", "--port", "0"]
    with (
        ServerProcess(["--model", f"{KIND}={model}", "--port", "0"], env=env) as server,
        ServerProcess(["--backend", f"127.0.0.1:{server.port}"], command=gateway) as front,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=_TIMEOUT_S)
        try:
            yield GatewayClient(front, connection)
        finally:
            connection.close()


def measure_round(
    client: GatewayClient, forms: list[Form], requests: int, run: HttpRun, step: Callable[[str], None]
) -> None:
    """Measure a window of each form, and one of the standard library's json with the lists' text.

    Args:
        client: the gateway.
        forms: the forms.
        requests: of a window; a tenth for JSON lists.
        run: gets the windows.
        step: called with a line on each window.

    Raises:
        WrongAnswer: an image got no right answer.
    """
    for form in forms:
        count = max(1, requests // _LISTS_SHARE) if form.name == LISTS_FORM else requests
        answer = client.post(form)
        before = process_tree.own_cpu_s(client.gateway.pid)
        for _ in range(count):
            if len(client.post(form)) != len(answer):
                raise WrongAnswer(f"{form.name}: the same image got another answer")
        used_s = process_tree.own_cpu_s(client.gateway.pid) - before
        run.body(form.name, len(form.content), len(answer)).windows.append(BodyWindow(count, used_s))
        step(f"{form.name}: {used_s / count * 1e3:.2f} ms of the gateway's CPU")
        if form.name == LISTS_FORM:
            window = _standard(form.content, answer, count)
            run.body(STANDARD_JSON, len(form.content), len(answer)).windows.append(window)
            step(f"{STANDARD_JSON}: {window.cpu_s / count * 1e3:.2f} ms")


def check_answers(client: GatewayClient, forms: list[Form]) -> None:
    """Check that the tensor gives the same scores in every form, and the file a best class.

    Raises:
        WrongAnswer: they differ.
    """
    answers = {form.name: json.loads(client.post(form)) for form in forms}
    scores = {name: _scores(answer) for name, answer in answers.items() if "results" not in answer}
    first_name, first = next(iter(scores.items()))
    for name, other in scores.items():
        if first.shape != other.shape or not np.allclose(first, other, atol=1e-4):
            raise WrongAnswer(f"{name} and {first_name}: the same image has other scores")
    files = [answer["results"] for answer in answers.values() if "results" in answer]
    if not all(len(results) == 1 and results[0] for results in files):
        raise WrongAnswer("image/jpeg: no class")


def _scores(answer: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the scores of the row or the columnar form."""
    ((_, scores),) = answer.items()
    return np.asarray(scores, np.float64)


def _standard(text: bytes, answer: bytes, count: int) -> BodyWindow:
    """Measure the standard library for the same work: text to tensor, and the answer to text."""
    scores = json.loads(answer)
    began = time.thread_time()
    for _ in range(count):
        np.asarray(json.loads(text)["instances"], np.float32)
        json.dumps(scores)
    return BodyWindow(count, time.thread_time() - began)
