"""The registry: who is found by name, version and label, and what is said where nobody is."""

from __future__ import annotations

import pytest

from thriftserve.errors import Code, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Registry, Servable
from thriftserve.repository.version_states import VersionStatus
from thriftserve_idl.ttypes import ModelState


def servable(name: str, version: int) -> Servable:
    return Servable(name, version, PythonSession.open("served_models:Declared", "cpu"))


@pytest.fixture
def registry() -> Registry:
    served = Registry([servable("a", 2), servable("a", 10), servable("b", 1)])
    served.relabel({"a": {"stable": 2}})
    return served


def test_newest_version_unless_one_is_named(registry: Registry) -> None:
    """Without a version the highest number answers; with a version or label, that one."""
    assert registry.get("a").version == 10
    assert registry.get("a", 2).version == 2
    assert registry.get("a", label="stable").version == 2
    assert registry.get("b").name == "b"


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        (("c", None, None), NotFound, "no model named 'c' is served; served: 'a', 'b'"),
        (("a", 3, None), NotFound, "model 'a' has no version 3; served: 10, 2"),
        (("a", 0, None), NotFound, "has no version 0"),
        (("a", None, "canary"), FailedPrecondition, "has the label 'canary'; labels: 'stable'"),
        (("b", None, ""), FailedPrecondition, "has the label ''; labels: none"),
        (("a", 2, "stable"), InvalidArgument, "by version 2 and by label 'stable'"),
    ],
)
def test_what_is_not_served_is_named(
    registry: Registry, asked: tuple[str, int | None, str | None], kind: type[Exception], said: str
) -> None:
    """The message names what was asked for and what is served."""
    with pytest.raises(kind, match=said):
        registry.get(*asked)


def test_empty_registry_says_so() -> None:
    """Before anything is loaded, the message says that nothing is served."""
    with pytest.raises(NotFound, match="served: none"):
        Registry().get("a")


def test_statuses(registry: Registry) -> None:
    """Every version is listed newest first, by model; one model or version where it is named."""
    newest = VersionStatus(10, ModelState.AVAILABLE)
    older = VersionStatus(2, ModelState.AVAILABLE, labels=("stable",))
    other = VersionStatus(1, ModelState.AVAILABLE)
    assert registry.names() == ["a", "b"]
    assert registry.statuses() == {"a": [newest, older], "b": [other]}
    assert registry.statuses("a") == {"a": [newest, older]}
    assert registry.statuses("a", 2) == {"a": [older]}
    with pytest.raises(NotFound):
        registry.statuses("c")
    with pytest.raises(NotFound):
        registry.statuses("a", 3)


def test_replacing_gives_back_what_is_no_longer_served(registry: Registry) -> None:
    """A swap serves the new set at once and hands back what fell out of it, still open."""
    kept, dropped, gone = registry.get("a"), registry.get("a", 2), registry.get("b")
    assert registry.replace([kept]) == [dropped, gone]
    assert registry.names() == ["a"]
    assert registry.servables() == [kept]


def test_session_that_fails_to_close(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """A model whose close fails is told in the log, and the others are closed all the same."""
    first, *others = [one.session.model for one in registry.servables()]  # type: ignore[attr-defined]  # its steps
    first.steps = None
    registry.close()
    assert "model a version 10 failed to close" in caplog.text
    assert [model.steps[-1] for model in others] == ["close"] * 2


def test_close_closes_every_session(registry: Registry) -> None:
    """Closing leaves nothing served and nothing open."""
    sessions = [one.session for one in registry.servables()]
    registry.close()
    assert registry.names() == []
    assert [session.model.steps[-1] for session in sessions] == ["close"] * 3  # type: ignore[attr-defined]  # its steps


def test_labels_move_at_once(registry: Registry) -> None:
    """Labels set from outside find their versions, and show in the status; one may point at what is not served."""
    registry.relabel({"a": {"stable": 10, "next": 11}, "b": {"only": 1}})
    assert registry.get("a", label="stable").version == 10
    assert registry.get("b", label="only").version == 1
    assert registry.statuses("a", 10)["a"][0].labels == ("stable",)
    with pytest.raises(FailedPrecondition, match="'next' of model 'a' points at version 11, which is not available"):
        registry.get("a", label="next")


def test_labels_and_versions_move_together(registry: Registry) -> None:
    """A swap may bring its labels along; without them, those that were stay."""
    fresh = servable("a", 11)
    registry.replace([fresh], {"a": {"stable": 11}})
    assert registry.get("a", label="stable") is fresh
    registry.replace([fresh, servable("a", 12)])
    assert registry.get("a", label="stable") is fresh


REMEMBERED = {
    "a": [VersionStatus(11, ModelState.LOADING), VersionStatus(10, ModelState.LOADING)],
    "c": [VersionStatus(5, ModelState.START)],
    "d": [VersionStatus(6, ModelState.ENDED, Code.INTERNAL, "no memory")],
}


def test_versions_that_are_not_served_are_told_of(registry: Registry) -> None:
    """What loads, failed or ended shows beside what is served, which speaks for itself."""
    registry.remember(REMEMBERED)
    found = registry.statuses()
    assert [(one.version, one.state) for one in found["a"]] == [
        (11, ModelState.LOADING),
        (10, ModelState.AVAILABLE),
        (2, ModelState.AVAILABLE),
    ]
    assert sorted(found) == ["a", "b", "c", "d"]
    assert registry.statuses("d", 6)["d"] == REMEMBERED["d"]
    assert registry.names() == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        (("a", 11), Unavailable, "model 'a': version 11 is LOADING; served: 10, 2"),
        (("c", None), Unavailable, "model 'c' has no version available: 5 is START"),
        (("d", None), NotFound, r"model 'd' has no version available: 6 is ENDED \(no memory\)"),
        (("d", 6), NotFound, r"6 is ENDED \(no memory\)"),
        (("a", 3), NotFound, "model 'a' has no version 3; served: 10, 2"),
    ],
)
def test_what_is_known_of_a_version_that_is_not_served(
    registry: Registry, asked: tuple[str, int | None], kind: type[Exception], said: str
) -> None:
    """What is about to come may be asked for again; what failed is told with its reason."""
    registry.remember(REMEMBERED)
    with pytest.raises(kind, match=said):
        registry.get(*asked)
