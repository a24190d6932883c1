"""A rollout: which versions are to be served, and how far the workers are with them.

configs, versions on disk  --desired_versions-->  models  --next_plan-->  Plan  --WorkerSet-->  workers replaced

The functions decide, and change nothing. `WorkerSet` has workers replaced and says what they have loaded.
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

#: A rollout that no worker works on is asked for again after this time. The first successor may take seconds to show
#: up: it may have to import TensorFlow.
_STALLED_S = 15.0

log = logging.getLogger(__name__)


def rollout_in_progress(
    plan: Plan, workers: Iterable[tuple[WorkerPhase, int]], suspended: Collection[tuple[str, VersionDir]]
) -> bool:
    """Return whether workers are still being replaced by workers with this plan: the next plan waits for that.

    A plan published in between would be loaded by workers that started for this one. They would serve versions that
    no status shows, and if versions arrive faster than they load, no plan would ever be everywhere.

    Args:
        plan: what they are to load.
        workers: phase and number of the loaded plan, of each worker.
        suspended: models and versions that failed to load, and are not to be tried now.
    """
    if any(version in suspended for version in plan.versions()):
        return False
    return any(phase is not WorkerPhase.IDLE or number != plan.number for phase, number in workers)


def desired_versions(
    configs: Iterable[ModelConfig],
    wanted: Mapping[str, tuple[VersionDir, ...]],
    suspended: Collection[tuple[str, VersionDir]],
    served: Plan | None,
) -> tuple[PlannedModel, ...]:
    """Return the models and versions to serve; a model without any version to serve is left out.

    A suspended version is left out. If the policy asks for the latest versions, or if no other version is left, those
    that are served now replace it: the old version goes on.

    Args:
        configs: the models to serve.
        wanted: the versions that their policies ask for, by model, newest first.
        suspended: models and versions that are not to be tried now.
        served: the plan that every worker has loaded.
    """
    planned = [_desired_model(config, wanted.get(config.name, ()), suspended, served) for config in configs]
    return tuple(model for model in planned if model.versions)


def _desired_model(
    config: ModelConfig,
    wanted: tuple[VersionDir, ...],
    suspended: Collection[tuple[str, VersionDir]],
    served: Plan | None,
) -> PlannedModel:
    desired = [version for version in wanted if (config.name, version) not in suspended]
    served_model = served.named(config.name) if served is not None else None
    replaceable = isinstance(config.policy, Latest) or not desired
    if served_model is not None and len(desired) < len(wanted) and replaceable:
        others = [
            version
            for version in served_model.versions
            if version not in desired and (config.name, version) not in suspended
        ]
        desired += others[: len(wanted) - len(desired)]
    return PlannedModel.of(config, tuple(sorted(desired, key=lambda version: -version.version)))


def next_plan(models: tuple[PlannedModel, ...], plan: Plan, served: Plan, number: int, *, force: bool) -> Plan:
    """Return the plan by which workers serve these models.

    Args:
        models: what is to be served.
        plan: the one that was published last: returned itself if it has these models.
        served: the one that every worker has loaded: returned, to fall back to, if it has these models.
        number: of the new plan that is returned otherwise.
        force: whether workers are to be replaced even if nothing has changed.
    """
    if force or models not in (plan.models, served.models):
        return Plan(number, models)
    return plan if models == plan.models else served


class PlacementWarning:
    """Warns that a plan asks for other processes, threads or devices than the server started with.

    Args:
        placed: the settings that the server started with, with the placement of its workers.
    """

    def __init__(self, placed: ServeSettings) -> None:
        self._placed = placed
        self._logged: list[str] = []

    def check(self, settings: ServeSettings, plan: Plan) -> None:
        """Log, once for each difference, what in a plan only a restart of the server brings about."""
        with contextlib.suppress(StartError):  # the workers that load the plan will report it
            chosen = devices.choose_devices(settings, (model.config for model in plan.models))
            changed = process_layout.list_changes(self._placed, process_layout.lay_out(chosen, plan.models))
            if changed and changed != self._logged:
                log.warning("model config change needs a server restart: %s", "; ".join(changed))
            self._logged = changed


class Workers(Protocol):
    """The worker processes, as the controller sees and moves them."""

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """Return the phase of each worker and the number of the plan that it has loaded."""

    def reload(self) -> None:
        """Have the workers replaced one by one; each successor loads the plan that is published then."""

    def state_changed(self) -> None:
        """Tell every process that state.json has changed."""


class WorkerSet:
    """All workers of a server, and the rollout that was asked for last. Used by one thread at a time.

    Args:
        workers: the processes.
        count: how many there are when none is missing.
    """

    def __init__(self, workers: Workers, count: int) -> None:
        self._workers = workers
        self._count = count
        self._asked_at = 0.0

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """Return the phase of each worker and the number of the plan that it has loaded."""
        return self._workers.plans()

    def plan_numbers(self) -> set[int]:
        """Return the numbers of the plans that workers have loaded, also workers that are ending."""
        return {number for _, number in self._workers.plans()}

    def all_have(self, number: int) -> bool:
        """Return whether every worker has loaded the plan of that number, and none is missing."""
        idle = [loaded for phase, loaded in self._workers.plans() if phase is WorkerPhase.IDLE]
        return len(idle) >= self._count and set(idle) == {number}

    def has_begun(self, number: int) -> bool:
        """Return whether a worker has loaded that plan, or is loading."""
        return any(phase is WorkerPhase.STARTING or loaded == number for phase, loaded in self._workers.plans())

    def roll_out(self, number: int, now: float) -> None:
        """Have the workers replaced unless all that serve have loaded that plan."""
        if any(loaded != number for phase, loaded in self._workers.plans() if phase is WorkerPhase.IDLE):
            self._reload(now)

    def repeat_if_stalled(self, number: int, now: float) -> None:
        """Have the workers replaced again if some lack that plan and no successor is loading: one may have died."""
        plans = self._workers.plans()
        all_idle = all(phase is WorkerPhase.IDLE for phase, _ in plans)
        if all_idle and any(loaded != number for _, loaded in plans) and now - self._asked_at > _STALLED_S:
            self._reload(now)

    def state_changed(self) -> None:
        """Tell every process that state.json has changed."""
        self._workers.state_changed()

    def _reload(self, now: float) -> None:
        self._asked_at = now
        self._workers.reload()
