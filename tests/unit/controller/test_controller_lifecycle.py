"""The life cycle of versions, as it follows from plans, workers and failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from thriftserve.controller.lifecycle import VersionTracker
from thriftserve.errors import Code
from thriftserve.repository.plan import Plan, PlannedModel
from thriftserve.repository.state_store import LoadFailure, StateDir, StateReader, StateWriter
from thriftserve.repository.versions import ModelConfig, VersionDir
from thriftserve_idl.ttypes import ModelState

START, LOADING, AVAILABLE = ModelState.START, ModelState.LOADING, ModelState.AVAILABLE
UNLOADING, ENDED = ModelState.UNLOADING, ModelState.ENDED


def plan(number: int, *versions: int, **others: Iterable[int]) -> Plan:
    """A plan of these versions of model m, and of versions of other models."""
    models = {"m": versions, **others}
    return Plan(
        number,
        tuple(
            PlannedModel.of(
                ModelConfig(name, "tensorflow", f"/{name}"),
                tuple(VersionDir(version, Path(f"/{name}/{version}")) for version in numbers),
            )
            for name, numbers in models.items()
            if numbers
        ),
    )


def states(tracker: VersionTracker, name: str = "m") -> dict[int, ModelState]:
    return {status.version: status.state for status in tracker.statuses(("m", "other")).get(name, ())}


def serving(*versions: int, frees_first: bool = False) -> tuple[VersionTracker, Plan]:
    """A tracker whose workers all serve plan 1 with these versions of m."""
    tracker, served = VersionTracker(None, frees_first=frees_first), plan(1, *versions)
    tracker.settle(served, served, [served], {})
    return tracker, served


def failed(version: int, message: str = "no memory") -> Mapping[tuple[str, int], LoadFailure]:
    return {("m", version): LoadFailure("m", version, Code.INTERNAL, message)}


def test_rollout_takes_one_version_up_and_the_other_down() -> None:
    """START, LOADING, AVAILABLE on the one side; the old version answers until the last worker without it has ended."""
    tracker, old = serving(1)
    assert states(tracker) == {1: AVAILABLE}
    new = plan(2, 2)
    tracker.settle(new, old, [old], {}, begun=False)
    assert states(tracker) == {1: AVAILABLE, 2: START}
    tracker.settle(new, old, [old], {})
    assert states(tracker) == {1: AVAILABLE, 2: LOADING}
    tracker.settle(new, old, [old, new], {})
    assert states(tracker) == {1: AVAILABLE, 2: LOADING}  # one worker has it, not all
    tracker.settle(new, new, [old, new], {})
    assert states(tracker) == {1: UNLOADING, 2: AVAILABLE}  # the last old worker is ending
    tracker.settle(new, new, [new], {})
    assert states(tracker) == {1: ENDED, 2: AVAILABLE}
    assert tracker.available("m") == {2}


def test_plan_replaced_during_a_rollout() -> None:
    """Version 2 is dropped before it is everywhere: it ends without ever being available, and 3 takes its place."""
    tracker, old = serving(1)
    second, third = plan(2, 2), plan(3, 3)
    tracker.settle(second, old, [old], {})
    tracker.settle(third, old, [old], {}, begun=False)
    assert states(tracker) == {1: AVAILABLE, 2: ENDED, 3: START}
    tracker.settle(third, third, [third], {})
    assert states(tracker) == {1: ENDED, 2: ENDED, 3: AVAILABLE}
    assert ("m", UNLOADING) in tracker.counts() and tracker.counts()["m", AVAILABLE] == 2


def test_replaced_plan_that_a_worker_still_has() -> None:
    """A version that was loading when its plan was replaced ends at once, also if a worker has it: none answered."""
    tracker, old = serving(1)
    second, third = plan(2, 2), plan(3, 3)
    tracker.settle(second, old, [old, second], {})
    tracker.settle(third, old, [old, second], {}, begun=False)
    assert states(tracker) == {1: AVAILABLE, 2: ENDED, 3: START}


def test_version_that_fails_twice_and_then_loads() -> None:
    """Each failure ends it with the error of that try; each new try begins at START; at last it is available."""
    tracker, old = serving(1)
    new = plan(2, 1, 2)
    for message in ("first", "second"):
        tracker.settle(new, old, [old], {})
        assert states(tracker) == {1: AVAILABLE, 2: LOADING}
        tracker.settle(old, old, [old], failed(2, message))
        (status,) = (status for status in tracker.statuses(("m",))["m"] if status.version == 2)
        assert (status.state, status.error_code, status.error_message) == (ENDED, Code.INTERNAL, message)
    # The failure is still known while it is tried again, and does not end it.
    for _ in range(2):
        tracker.settle(new, old, [old], failed(2, "second"))
        assert states(tracker) == {1: AVAILABLE, 2: LOADING}
    assert (tracker.counts()["m", LOADING], tracker.counts()["m", ENDED]) == (4, 2)
    tracker.settle(new, new, [new], {})
    assert states(tracker) == {1: AVAILABLE, 2: AVAILABLE}
    assert all(status.error_code is None for status in tracker.statuses(("m",))["m"])


def test_worker_lost_during_a_rollout() -> None:
    """Without its old worker, the old version stays available: others answer with it, or its successor soon does."""
    tracker, old = serving(1)
    new = plan(2, 2)
    tracker.settle(new, old, [new], {})
    assert states(tracker) == {1: AVAILABLE, 2: LOADING}
    tracker.settle(new, old, [], {}, begun=False)
    assert states(tracker) == {1: AVAILABLE, 2: LOADING}  # it is not taken back


@pytest.mark.parametrize("planned", [(1,), (2,)])
def test_worker_that_frees_its_memory_first(planned: tuple[int, ...]) -> None:
    """With swap_policy "resource" the old version ends with its worker, unless its successor loads it as well."""
    tracker, old = serving(1, frees_first=True)
    new = plan(2, *planned)
    tracker.settle(new, old, [], {})
    assert states(tracker) == ({1: AVAILABLE} if planned == (1,) else {1: ENDED, 2: LOADING})


def test_pending_versions_have_a_state_before_they_have_a_plan() -> None:
    """What an operator asked for is at START, is not unloaded meanwhile, and ends if it is given up."""
    tracker, served = serving(1)
    tracker.settle(served, served, [served], {}, pending=[("m", 2), ("other", 1)])
    assert (states(tracker), states(tracker, "other")) == ({1: AVAILABLE, 2: START}, {1: START})
    tracker.settle(served, served, [served], {}, pending=[("m", 2)])
    assert (states(tracker), states(tracker, "other")) == ({1: AVAILABLE, 2: START}, {1: ENDED})
    tracker.settle(served, served, [served], failed(2, "not fetched"))
    assert states(tracker) == {1: AVAILABLE, 2: ENDED}


def test_models_that_are_gone_are_shown_until_they_end() -> None:
    """A model without a configuration is there while one of its versions is."""
    tracker, new = VersionTracker(None), plan(2, 1)
    old = plan(1, 1, other=(4,))
    tracker.settle(old, old, [old], {})
    tracker.settle(new, new, [old, new], {})
    assert [status.state for status in tracker.statuses(("m",))["other"]] == [UNLOADING]
    tracker.settle(new, new, [new], {})
    assert set(tracker.statuses(("m",))) == {"m"}


def test_next_controller_goes_on_from_the_state_file(tmp_path: Path) -> None:
    """States and counts are taken over, and nothing is counted twice."""
    tracker, served = serving(1)
    tracker.note_load_time("m", 1, 2.5)
    state = StateDir(tmp_path)
    state.prepare()
    StateWriter(state).write(tracker.statuses(("m",)), {}, tracker.counts())
    successor = VersionTracker(StateReader(state, lambda: 0))
    assert successor.statuses(("m",)) == tracker.statuses(("m",))
    successor.settle(served, served, [served], {})
    assert successor.counts() == tracker.counts()
