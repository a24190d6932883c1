"""While a server runs, merged answers are compared with runs by themselves now and then; a mismatch ends merging."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batching_models import answered, job
from documents import SUPPORT
from hosting import eventually
from served import Served
from thriftserve.batching import Batcher
from thriftserve.batching.spot_check import FIRST, SpotCheck
from thriftserve.models.registry import Servable
from thriftserve.models.session import DEFAULT_SIGNATURE, Session, Signature, TensorSpec
from thriftserve.repository.model_settings import BatchingSettings
from thriftserve.repository.state_store import StateDir, UnmergedModels
from thriftserve_client import Client
from thriftserve_idl.ttypes import DataType

HERE = str(SUPPORT)
#: A value that nobody would try.
TRAP = 4321.25


class Trapped(Session):
    """Doubles its rows; where one of them is the trap, all of its run are wrong. Inner workings by `how`."""

    platform, device = "tensorflow", "cpu"

    def __init__(self, how: str = "") -> None:
        spec = TensorSpec("x", DataType.FLOAT, (None,))
        self.signatures = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, {"x": spec}, {"y": spec})}
        self.how = how
        self.runs: list[int] = []
        self._random = np.random.default_rng(1)

    def run(self, signature: str, inputs: Any, outputs: Any) -> dict[str, Any]:
        x = inputs["x"]
        self.runs.append(len(x))
        if self.how == "noisy" and TRAP in x:
            return {"y": x + 1000 * self._random.normal(size=x.shape).astype(np.float32)}
        if self.how == "chaotic" and (abs(x - TRAP) < 1).any():  # rounding in another order, and what it does
            return {"y": np.sin(x * np.float32(1 + 3e-7 * len(x)) * 1e6).astype(np.float32)}
        return {"y": x * 2 + (len(x) - 1 if TRAP in x else 0)}

    def close(self) -> None:
        """Nothing to free."""


def trapped(how: str = "", **settings: Any) -> Servable:
    return Servable("m", 1, Trapped(how), batching=BatchingSettings(**settings))


def asked(batcher: Batcher, servable: Servable, *values: float) -> list[tuple[float, int]]:
    """The answer to each value, of requests in one hand, and the rows of its run."""
    jobs = [job(servable, {"x": np.array([value], np.float32)}) for value in values]
    done = [answered(one) for one in batcher.run_all(jobs)]
    return [(float(one.outputs["y"][0]), one.batch_size) for one in done]


def test_a_mismatch_ends_merging(caplog: pytest.LogCaptureFixture) -> None:
    """The run in which it is found is answered right, nothing is merged after it, log and note say so loudly."""
    servable, batcher = trapped(), Batcher(1)
    batcher.examine(servable)
    assert asked(batcher, servable, 1, 2) == [(2, 2), (4, 2)]
    assert asked(batcher, servable, 1, TRAP, 3) == [(2, 1), (2 * TRAP, 1), (6, 1)]
    assert asked(batcher, servable, 1, 2) == [(2, 1), (4, 1)]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "merging stopped in every process" in line
    assert "EARLIER ANSWERS MAY BE WRONG" in line
    assert "max_batch_size under [batching]" in line
    assert batcher.note(servable).startswith("merging stopped: an answer's 'y' depended on the other requests")


def test_answers_that_vary_end_merging(caplog: pytest.LogCaptureFixture) -> None:
    """A model that doesn't answer the same twice shows nothing any more."""
    servable, batcher = trapped("noisy"), Batcher(1)
    batcher.examine(servable)
    assert asked(batcher, servable, 1, 2)[0] == (2, 2)
    assert [size for _, size in asked(batcher, servable, TRAP, TRAP)] == [1, 1]
    assert "differently each time" in batcher.note(servable)
    assert "EARLIER" not in caplog.text


def test_rounding_that_grows_ends_nothing() -> None:
    """Where the rounding of its own input changes an answer as much, the other rows are not to blame."""
    servable, batcher = trapped("chaotic"), Batcher(1)
    batcher.examine(servable)
    for _ in range(FIRST):
        assert [size for _, size in asked(batcher, servable, TRAP, TRAP)] == [2, 2]
    assert batcher.note(servable) == ""


def test_the_author_s_word_is_not_checked() -> None:
    """A model whose settings say `max_batch_size` runs each request once."""
    servable, batcher = trapped(max_batch_size=8), Batcher(1)
    assert asked(batcher, servable, 1, TRAP) == [(3, 2), (2 * TRAP + 1, 2)]
    assert servable.session.runs == [2]  # type: ignore[attr-defined]


def test_what_checks_cost() -> None:
    """The first runs are all checked, each place of a run in turn; ever fewer later, down to half a percent."""
    check = SpotCheck({})
    places = [check.due(1000, 4) for _ in range(FIRST - 1)]
    assert {0, 1, 2, 3} == set(places)
    checked = [at for at in range(20_000) if check.due(1000, 4) is not None]
    assert 30 < sum(at < 1000 for at in checked) < 60
    assert sum(at >= 10_000 for at in checked) == pytest.approx(50, abs=3)
    assert {at % 4 for at in checked} == {0, 1, 2, 3}


def test_other_processes_hear_of_it(tmp_path: Path) -> None:
    """A batcher that shares a state directory stops merging too; one begun anew hears what was told before."""
    state = StateDir(tmp_path)
    state.prepare()
    servables = [trapped(), trapped(), trapped()]
    batchers = [Batcher(1, stops=UnmergedModels(state)) for _ in servables[:2]]
    for batcher, servable in zip(batchers, servables, strict=False):
        batcher.examine(servable)
        assert asked(batcher, servable, 1, 2) == [(2, 2), (4, 2)]
    asked(batchers[0], servables[0], 1, TRAP)
    eventually(lambda: asked(batchers[1], servables[1], 1, 2) == [(2, 1), (4, 1)], "the other one stops")
    batchers.append(Batcher(1, stops=UnmergedModels(state)))
    batchers[2].examine(servables[2])
    assert asked(batchers[2], servables[2], 1, 2) == [(2, 1), (4, 1)]
    assert "merging stopped" in batchers[2].note(servables[2])
    state.prepare()
    assert list(UnmergedModels(state).new()) == []


def test_in_a_server() -> None:
    """Clients of a batching server get no wrong answer; its status tells what was found, in every worker."""
    with Served("--model", "m=python:trap_model:Trap", "--workers", "2", PYTHONPATH=HERE) as server:
        wrong: list[float] = []

        def ask(number: int) -> None:
            with server.client() as client:
                for value in [number + 0.5, TRAP] * 20:
                    y = client.predict("m", {"x": np.array([value], np.float32)})["y"]
                    if y[0] != np.float32(value) * 2:
                        wrong.append(value)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        with server.client() as client:
            eventually(lambda: "merging stopped" in note(client), "the status says so")


def note(client: Client) -> str:
    (status,) = client.status("m").versions
    return status.note or ""
