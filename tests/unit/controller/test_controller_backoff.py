"""Retries: pauses that grow, and versions that wait for their next try."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from thriftserve.controller.lifecycle import LoadBackoff, RetryPolicy
from thriftserve.errors import Code
from thriftserve.repository.state_store import LoadFailure
from thriftserve.repository.versions import VersionDir

V2, V3 = VersionDir(2, Path("/m/2")), VersionDir(3, Path("/m/3"))


def failure(version: int, message: str = "no memory", name: str = "m") -> LoadFailure:
    return LoadFailure(name, version, Code.INTERNAL, message)


@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        (RetryPolicy(retries=3, retry_s=10.0), [10.0, 20.0, 40.0, math.inf, math.inf]),
        (RetryPolicy(retries=0, retry_s=10.0), [math.inf]),
        (RetryPolicy(retries=9, retry_s=1000.0), [1000.0, 2000.0, 3600.0, 3600.0]),
        (RetryPolicy(retries=2, retry_s=0.0), [0.0, 0.0, math.inf]),
    ],
)
def test_pauses_double_up_to_an_hour_and_end(policy: RetryPolicy, pauses: list[float]) -> None:
    """Each failure doubles the pause; it never exceeds an hour, and after the last retry there is no other."""
    assert [policy.pause_s(failures) for failures in range(1, len(pauses) + 1)] == pauses


def test_version_that_fails_twice_and_then_loads() -> None:
    """It waits 10 s, then 20 s; once it has loaded, the next failure counts as the first."""
    backoff = LoadBackoff(RetryPolicy(retries=5, retry_s=10.0))
    backoff.record(failure(3, "first"), V3, now=100.0)
    assert backoff.suspended(109.9) == {("m", V3)}
    assert backoff.suspended(110.0) == set()
    assert backoff.failures() == {("m", 3): failure(3, "first")}  # known until it loads
    backoff.record(failure(3, "second"), V3, now=111.0)
    assert backoff.suspended(130.9) == {("m", V3)}
    assert backoff.suspended(131.0) == set()
    assert backoff.failures() == {("m", 3): failure(3, "second")}
    backoff.forget("m", 3)
    assert backoff.failures() == {}
    backoff.record(failure(3), V3, now=200.0)
    assert backoff.suspended(209.9) == {("m", V3)}
    assert backoff.suspended(210.0) == set()


def test_versions_wait_each_for_itself() -> None:
    """One version's failures neither count for another version nor for another model's version of that number."""
    backoff = LoadBackoff(RetryPolicy(retries=5, retry_s=10.0))
    backoff.record(failure(3), V3, now=0.0)
    backoff.record(failure(3), V3, now=10.0)
    backoff.record(failure(2), V2, now=10.0)
    backoff.record(failure(3, name="other"), V3, now=10.0)
    assert backoff.suspended(19.0) == {("m", V3), ("m", V2), ("other", V3)}
    assert backoff.suspended(20.0) == {("m", V3)}
    backoff.forget_model("m")
    assert backoff.suspended(19.0) == {("other", V3)}
    assert set(backoff.failures()) == {("other", 3)}


def test_version_that_moved_is_not_suspended() -> None:
    """The same number in another directory is another version: only the directory that failed waits."""
    backoff = LoadBackoff(RetryPolicy())
    backoff.record(failure(3), V3, now=0.0)
    assert ("m", VersionDir(3, Path("/elsewhere/3"))) not in backoff.suspended(1.0)


def test_last_failure_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    """The log says when a version is tried again, and when it is not tried again by itself."""
    backoff = LoadBackoff(RetryPolicy(retries=1, retry_s=2.5))
    backoff.record(failure(3, "too tall"), V3, now=0.0)
    backoff.record(failure(3, "too tall"), V3, now=2.5)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "model m version 3 can't be loaded, it is tried again in 2.5 s: too tall",
        "model m version 3 can't be loaded, it is not tried again by itself: too tall",
    ]
    assert backoff.suspended(1e9) == {("m", V3)}


def test_reset_takes_the_policy_that_was_read_again() -> None:
    """A reload forgets every failure, and its settings hold for the next ones."""
    backoff = LoadBackoff(RetryPolicy(retries=1, retry_s=10.0))
    backoff.record(failure(3), V3, now=0.0)
    backoff.reset(RetryPolicy(retries=1, retry_s=1.0))
    assert (backoff.suspended(0.5), backoff.failures()) == (set(), {})
    backoff.record(failure(3), V3, now=0.0)
    assert backoff.suspended(0.9) == {("m", V3)}
    assert backoff.suspended(1.0) == set()
