"""The life of a version: which state may follow which, and what is told of each step."""

from __future__ import annotations

import json
import logging
from itertools import count

import pytest

from thriftserve.errors import Code
from thriftserve.repository.version_states import KEPT_ENDED, VersionStates, VersionStatus
from thriftserve_idl.ttypes import ModelState

START, LOADING, AVAILABLE = ModelState.START, ModelState.LOADING, ModelState.AVAILABLE
UNLOADING, ENDED = ModelState.UNLOADING, ModelState.ENDED
LIFE = (START, LOADING, AVAILABLE, UNLOADING, ENDED)


def lived(*steps: ModelState) -> VersionStates:
    """States in which m's version 1 took these steps, a second each."""
    states = VersionStates(clock=map(float, count(100)).__next__)
    for step in steps:
        states.move("m", 1, step)
    return states


@pytest.mark.parametrize("many", range(6))
def test_only_what_may_follow_follows(many: int) -> None:
    """From each state of a whole life, and before it, exactly the steps of the picture are possible."""
    allowed = {
        0: {START},
        1: {LOADING, ENDED},
        2: {LOADING, AVAILABLE, ENDED},
        3: {UNLOADING},
        4: {ENDED},
        5: {START},
    }[many]
    for step in LIFE:
        states = lived(*LIFE[:many])
        if step in allowed:
            assert states.move("m", 1, step).before == (LIFE[many - 1] if many else None)
        else:
            with pytest.raises(ValueError, match=f"to {step.name}"):
                states.move("m", 1, step)
            assert states.state("m", 1) == (LIFE[many - 1] if many else None)


def test_each_step_is_one_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    """A step is told to the log as JSON, with how long the state before lasted, and an error where there is one."""
    caplog.set_level(logging.INFO)
    states = lived(START)
    states.move("m", 1, LOADING)
    states.move("m", 1, LOADING, Code.INTERNAL, "no\nmemory")
    told = [json.loads(record.getMessage()) for record in caplog.records]
    common = {"event": "model_version_state", "model": "m", "version": 1}
    assert told == [
        {**common, "before": None, "state": "START", "at": 100.0, "lasted_s": 0.0},
        {**common, "before": "START", "state": "LOADING", "at": 101.0, "lasted_s": 1.0},
        {
            **common,
            "before": "LOADING",
            "state": "LOADING",
            "at": 102.0,
            "lasted_s": 1.0,
            "error_code": "INTERNAL",
            "error_message": "no\nmemory",
        },
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    assert "\n" not in caplog.records[2].getMessage()


def test_statuses_and_counts() -> None:
    """Every version is told of, those that failed too; each step is counted, and returned."""
    states = VersionStates()
    transitions = [states.move("m", version, state) for version in (1, 2) for state in (START, LOADING)]
    transitions.append(states.move("m", 1, AVAILABLE))
    transitions.append(states.move("m", 2, ENDED, Code.FAILED_PRECONDITION, "no such op"))
    transitions.append(states.move("a", 7, START))
    assert states.statuses() == {
        "a": [VersionStatus(7, START)],
        "m": [VersionStatus(2, ENDED, Code.FAILED_PRECONDITION, "no such op"), VersionStatus(1, AVAILABLE)],
    }
    assert (states.available("m"), states.available("a"), states.available("x")) == (
        frozenset({1}),
        frozenset(),
        frozenset(),
    )
    assert states.counts()["m", LOADING] == 2
    assert ("m", UNLOADING) not in states.counts()
    assert [transition.state for transition in transitions] == [START, LOADING, START, LOADING, AVAILABLE, ENDED, START]


def test_a_successor_goes_on_without_a_step(caplog: pytest.LogCaptureFixture) -> None:
    """What another process told is taken over with its counts and load times, and nothing is logged for it."""
    before = lived(START, LOADING)
    before.loaded("m", 1, 1.5)
    before.move("m", 1, AVAILABLE)
    caplog.clear()
    caplog.set_level(logging.INFO)
    after = VersionStates()
    after.restore(before.statuses(), before.counts())
    assert after.statuses() == {"m": [VersionStatus(1, AVAILABLE, load_time_s=1.5)]}
    assert not caplog.records
    after.move("m", 1, UNLOADING)
    assert after.counts() == {("m", state): 1 for state in (START, LOADING, AVAILABLE, UNLOADING)}


def test_another_try_clears_the_reason() -> None:
    """The reason of a failed try stands while it is tried again, and goes when the version is available."""
    states = lived(START, LOADING)
    states.move("m", 1, LOADING, Code.INTERNAL, "busy")
    assert states.statuses()["m"] == [VersionStatus(1, LOADING, Code.INTERNAL, "busy")]
    states.move("m", 1, AVAILABLE)
    assert states.statuses()["m"] == [VersionStatus(1, AVAILABLE)]


def test_old_ends_are_forgotten() -> None:
    """Of versions that ended, the latest are told of; a server that swaps for weeks keeps no more."""
    states = VersionStates(clock=map(float, count()).__next__)
    for version in range(100):
        for step in LIFE:
            states.move("m", version, step)
    assert [one.version for one in states.statuses()["m"]] == list(range(99, 99 - KEPT_ENDED, -1))
    assert states.counts()["m", ENDED] == 100
