"""The workers, as the keeper sees and moves them.

Crew.ask  -->  reload  -->  workers replaced one by one  -->  Crew.all_have(8)
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from thriftserve.errors import StartError
from thriftserve.models import devices, process_layout
from thriftserve.repository.plan import Plan, PlannedModel
from thriftserve.repository.versions import Latest, ModelConfig, VersionDir
from thriftserve.settings import ServeSettings
from thriftserve.status import WorkerPhase

# How far workers are with a plan.


def rollout_in_progress(
    plan: Plan, seen: Iterable[tuple[WorkerPhase, int]], held_back: Collection[tuple[str, VersionDir]]
) -> bool:
    """Whether workers come to have a plan, and may: the next one waits for that.

    Another one now would meet workers that load this one. They would serve versions that nobody tells of, and where
    versions come faster than they load, no plan would ever be everywhere.

    Args:
        plan: what they are to load.
        seen: phase and the number of the plan that it has, of each worker.
        held_back: versions that could not be loaded, and are not to be tried now.
    """
    if any(one in held_back for one in plan.versions()):
        return False
    return any(phase is not WorkerPhase.IDLE or number != plan.number for phase, number in seen)


# What should be served, of what there is.


def desired_versions(
    configs: Iterable[ModelConfig],
    wanted: Mapping[str, tuple[VersionDir, ...]],
    failing: Collection[tuple[str, VersionDir]],
    now: Plan | None,
) -> tuple[PlannedModel, ...]:
    """The models and versions to serve; a model of which there is nothing to serve is left out.

    A version that fails to load is left out. Where the policy asks for the newest ones, those that are served now
    stand in for it: the old version serves on.

    Args:
        configs: what the configuration asks for.
        wanted: by model, newest first.
        failing: models and versions that are not to be tried now.
        now: what is served.
    """
    planned = [_desired(config, wanted.get(config.name, ()), failing, now) for config in configs]
    return tuple(each for each in planned if each.versions)


def _desired(
    config: ModelConfig,
    wanted: tuple[VersionDir, ...],
    failing: Collection[tuple[str, VersionDir]],
    now: Plan | None,
) -> PlannedModel:
    sound = [one for one in wanted if (config.name, one) not in failing]
    served = now.named(config.name) if now is not None else None
    if len(sound) < len(wanted) and served is not None and (isinstance(config.policy, Latest) or not sound):
        others = [one for one in served.versions if one not in sound and (config.name, one) not in failing]
        sound += others[: len(wanted) - len(sound)]
    return PlannedModel.of(config, tuple(sorted(sound, key=lambda one: -one.version)))


# Where models ask for other workers than the server was started with.

log = logging.getLogger(__name__)


class PlacementWarning:
    """How the server's workers were laid out.

    Args:
        laid_out: the settings that it started with, with the placement of its workers.
    """

    def __init__(self, laid_out: ServeSettings) -> None:
        self._laid_out = laid_out
        self._told: list[str] = []

    def tell(self, settings: ServeSettings, plan: Plan) -> None:
        """Logs, once for each difference, what a plan asks for that only a restart of the server gives."""
        with contextlib.suppress(StartError):  # the workers that load it will tell
            chosen = devices.choose_devices(settings, (model.config for model in plan.models))
            changed = process_layout.list_changes(self._laid_out, process_layout.lay_out(chosen, plan.models))
            if changed and changed != self._told:
                log.warning("models ask for what a restart of the server gives: %s", "; ".join(changed))
            self._told = changed


#: A reload that nobody works on any more is asked for again after this time. It takes a while until the first worker
#: is seen to begin: where TensorFlow has to be imported first, some seconds.
_ASK_AGAIN_S = 15.0


class Workers(Protocol):
    """The worker processes."""

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """(phase, number of the plan that it has loaded) of each."""

    def reload(self) -> None:
        """Has them replaced by new ones, which load the plan as it is then."""

    def state_changed(self) -> None:
        """Tells every process that the state is written anew."""


class WorkerSet:
    """All of them.

    Args:
        workers: themselves.
        count: how many there are when all are well.
    """

    def __init__(self, workers: Workers, count: int) -> None:
        self._workers = workers
        self._count = count
        self._asked_at = 0.0

    def seen(self) -> list[tuple[WorkerPhase, int]]:
        """(phase, number of the plan that it has loaded) of each."""
        return self._workers.plans()

    def all_have(self, number: int) -> bool:
        """Whether every worker has loaded the plan of that number, and there are as many as there should be."""
        ready = [each for phase, each in self._workers.plans() if phase is WorkerPhase.IDLE]
        return len(ready) >= self._count and set(ready) == {number}

    def numbers(self) -> set[int]:
        """Of the plans that workers have loaded, those included that end."""
        return {number for _, number in self._workers.plans()}

    def has_begun(self, number: int) -> bool:
        """Whether a worker has loaded that plan, or loads."""
        return any(phase is WorkerPhase.STARTING or each == number for phase, each in self._workers.plans())

    def want(self, number: int, now: float) -> None:
        """Has workers replaced where one that serves has not loaded that plan."""
        if any(each != number for phase, each in self._workers.plans() if phase is WorkerPhase.IDLE):
            self._ask(now)

    def insist(self, number: int, now: float) -> None:
        """The same again, where nobody is about to load it any more: a successor died, say."""
        seen = self._workers.plans()
        quiet = all(phase is WorkerPhase.IDLE for phase, _ in seen)
        late = any(each != number for _, each in seen)
        if quiet and late and now - self._asked_at > _ASK_AGAIN_S:
            self._ask(now)

    def state_changed(self) -> None:
        """Tells every process that the state is written anew."""
        self._workers.state_changed()

    def _ask(self, now: float) -> None:
        self._asked_at = now
        self._workers.reload()
