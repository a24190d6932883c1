"""Decides what is served: looks, plans, has workers replaced, tells what became of it.

    configuration + base paths + wishes --step--> plan.json --reload--> workers --their numbers, attempts--> state.json

It holds no model itself. Whatever it decided is in the state directory, so a keeper that takes over from one that
died goes on where that one was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from thriftserve.controller.configuration import Configuration, RetryPolicy
from thriftserve.controller.fetch_jobs import PendingVersions
from thriftserve.controller.lifecycle import LoadBackoff, VersionTracker
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.controller.rollout import PlacementWarning, Workers, WorkerSet, desired_versions, rollout_in_progress
from thriftserve.controller.sources import MirrorClient, SourceWatcher, cache_of
from thriftserve.errors import FailedPrecondition, StartError
from thriftserve.repository.labels import Labels
from thriftserve.repository.plan import Plan
from thriftserve.repository.state_store import (
    LoadFailure,
    StateDir,
    StateReader,
    StateWriter,
    collect_load_results,
)
from thriftserve.repository.version_states import VersionStatus
from thriftserve.repository.versions import ModelConfig
from thriftserve.repository.watcher import Watcher
from thriftserve.settings import ServeSettings

log = logging.getLogger(__name__)

#: While workers are being replaced they are looked at so often.
_BUSY_S = 0.05
_IDLE_S = 1.0


class ModelController:
    """Such a keeper. Its methods may be called from any thread.

    Args:
        read: reads the settings as they are now.
        settings: as they were at the start.
        state: where it writes; `first_plan` has been there.
        watcher: has looked at the base paths once.
        workers: who serves.
        laid_out: the settings that the server started with, with the placement of its workers.
        on_reload: told of settings that were read again.
    """

    def __init__(
        self,
        read: Callable[[], ServeSettings],
        settings: ServeSettings,
        state: StateDir,
        watcher: Watcher,
        workers: Workers,
        laid_out: ServeSettings,
        on_reload: Callable[[ServeSettings], None] = lambda settings: None,
    ) -> None:
        self._configuration = Configuration(read, settings, state)
        self._on_reload = on_reload
        self._state = state
        self._crew = WorkerSet(workers, laid_out.worker_processes)
        self._layout = PlacementWarning(laid_out)
        self.lock = threading.RLock()
        self.wishes = OperatorOverrides(state, self.configured)
        self._failures = LoadBackoff(RetryPolicy.of(settings))
        self._plan = Plan.from_json(state.read("plan"))
        kept = state.read("keeper") or {"served": None, "number": self._plan.number}
        self._served = None if kept["served"] is None else Plan.from_json(kept["served"])
        self._number: int = kept["number"]
        before = None if self._served is None else StateReader(state, lambda: 0)
        self.lives = VersionTracker(before, frees_first=laid_out.swap_policy == "resource")
        self.labels = Labels(state.labels_file)
        self.labels.configure(self._labels_of(self.configured))
        self._plans = {each.number: each for each in (self._plan, self._served) if each is not None}
        self._writer = StateWriter(state)
        self._setbacks = 0
        self._not_before = 0.0
        self._forced = False
        self._reload_asked = False
        self._stopped = False
        self._wake = threading.Event()
        self._sources = SourceWatcher(watcher, partial(MirrorClient, cache_of(settings, state)), self._wake.set)
        configs = self.wishes.configs(self.configured)
        self._sources.configure(configs, self._timing, self._plans.values(), time.monotonic())
        self.coming = PendingVersions(
            lambda: self._configuration.settings, state, self.wishes, self.lock, self._has_landed, self._wake.set
        )

    @property
    def configured(self) -> tuple[ModelConfig, ...]:
        """The models of the configuration that holds."""
        return self._configuration.models

    @property
    def _timing(self) -> RetryPolicy:
        return RetryPolicy.of(self._configuration.settings)

    # Its thread

    def run(self) -> None:
        """Goes on until `stop`."""
        with self.lock:
            self.coming.fetches.resume()
        try:
            while not self._stopped:
                try:
                    wait_s = self.step()
                except Exception:  # what is served stays so; the next step may see what this one could not
                    log.exception("the models can't be looked after now")
                    wait_s = _IDLE_S
                self._wake.wait(wait_s)
                self._wake.clear()
        finally:
            self.coming.fetches.stop()
            self._sources.close()

    def stop(self) -> None:
        """Ends `run` soon."""
        self._stopped = True
        self._wake.set()

    def ask_reload(self) -> None:
        """Has the configuration read again and every worker replaced; safe in a signal handler."""
        self._reload_asked = True
        self._wake.set()

    def step(self) -> float:
        """Looks at everything once and does what follows.

        Returns:
            Seconds until it should be called again.
        """
        with self.lock:
            now = time.monotonic()
            if self._reload_asked or now >= self._configuration.due_at:
                self._look_at_configuration(now)
            for name, version in self._sources.look(self._timing, now):
                self._failures.forget(name, version)
            self._hear(now)
            self._decide(now)
            self._tell()
            if self._served is not self._plan:
                return _BUSY_S
            return max(_BUSY_S, min(self._sources.due_at - now, self._configuration.due_at - now, _IDLE_S))

    # What there is

    def _look_at_configuration(self, now: float) -> None:
        asked, self._reload_asked = self._reload_asked, False
        if not self._configuration.looked(now) and not asked:
            return
        try:
            settings, configured = self._configuration.read()
            labels = {one.name: one.labels for one in configured}
            allowed = settings.allow_unavailable_labels
            self.labels.configure(labels, self._available(configured), allow_unavailable=allowed)
        except (StartError, FailedPrecondition) as error:
            log.error("the configuration can't be used, the old one stays: %s", error.message)
            return
        self._on_reload(settings)
        self._configuration.take(settings, configured)
        self._forced = asked
        self._failures.clear()
        self.wishes.forget_models(configured)
        self.coming.fetches.cancel_all("the configuration was read again")
        self.reconfigure()
        self._sources.look_anew(now)

    def reconfigure(self) -> None:
        """What is to be served may have changed: it is looked at once more soon."""
        configs = self.wishes.configs(self.configured)
        self.labels.configure(self._labels_of(self.configured), self._available(configs))
        self._sources.configure(configs, self._timing, self._plans.values(), time.monotonic())
        self._wake.set()

    def _labels_of(self, configured: Sequence[ModelConfig]) -> dict[str, Mapping[str, int]]:
        return {one.name: one.labels for one in self.wishes.configs(configured)}

    def _available(self, configs: Iterable[ModelConfig]) -> dict[str, frozenset[int]]:
        return {one.name: self.lives.available(one.name) for one in configs}

    def load(self, name: str, source: str, version: int | None) -> None:
        """A model is wanted from a base path: what failed of it before does not count."""
        self.wishes.load(name, source, version)
        self._failures.clear_of(name)
        self.reconfigure()
        self._sources.look_anew(time.monotonic())

    def _has_landed(self, name: str, base_path: Path, version: int) -> set[Path]:
        self.load(name, str(base_path), version)
        return self.in_use()

    # What became of it

    def _hear(self, now: float) -> None:
        for outcome in collect_load_results(self._state):
            for (name, version), took_s in outcome.load_times_s.items():
                self.lives.loaded(name, version, took_s)
            # The first workers are tried again, or the server ends: not for the keeper to decide.
            if self._served is not None or outcome.done:
                for failed in outcome.failures:
                    self._failed(failed, now)
        if self._served is not self._plan and self._crew.all_have(self._plan.number):
            self._all_have_it()

    def _failed(self, failed: LoadFailure, now: float) -> None:
        what = next((one for name, one in self._plan.versions() if (name, one.version) == failed[:2]), None)
        if self._served is not None and failed[:2] in self._served.version_keys():
            log.error("model %s version %d can't be loaded again: %s", failed.name, failed.version, failed.message)
            self._fall_back(now)
        elif what is not None:
            self._failures.note(failed, what, now)

    def _fall_back(self, now: float) -> None:
        """What is served can't even be loaded again: the workers that have it must last, until another time."""
        assert self._served is not None
        self._setbacks += 1
        self._not_before = now + self._timing.pause_s(min(self._setbacks, max(1, self._timing.retries)))
        self._publish(self._served, now)

    def _all_have_it(self) -> None:
        if self._plan.first:
            self._leave_out_failed()
        self._served = self._plan
        self._setbacks, self._not_before = 0, 0.0
        for name, one in self._plan.versions():
            self._failures.forget(name, one.version)
        self._keep()

    def _leave_out_failed(self) -> None:
        """The first workers have left out what did not load, where the model had something else."""
        failed = self._failures.why()
        self._plan = self._plan.without(failed)
        self._plans[self._plan.number] = self._plan
        self._state.write("plan", self._plan.to_json())

    # What to do

    def _decide(self, now: float) -> None:
        if self._served is None or not self._sources.seen:
            return
        held_back = self._failures.held_back(now)
        if self._served is not self._plan and rollout_in_progress(self._plan, self._crew.seen(), held_back):
            self._crew.insist(self._plan.number, now)
            return
        configs = self.wishes.configs(self.configured)
        wanted = {name: self.wishes.versions(name, found) for name, found in self._sources.wanted.items()}
        models = desired_versions(configs, wanted, held_back, self._served)
        if not self._forced and now < self._not_before:
            return
        if self._forced or models not in (self._plan.models, self._served.models):
            self._forced = False
            self._number += 1
            self._publish(Plan(self._number, models), now)
        elif models != self._plan.models:
            self._publish(self._served, now)
        else:
            self._crew.insist(self._plan.number, now)
        self.coming.decided()

    def _publish(self, plan: Plan, now: float) -> None:
        self._layout.tell(self._configuration.settings, plan)
        self._plan = plan
        self._plans[plan.number] = plan
        self._state.write("plan", plan.to_json())
        self._keep()
        self._sources.hold(self._timing, self._plans.values(), now)
        self._crew.want(plan.number, now)

    def _keep(self) -> None:
        served = None if self._served is None else self._served.to_json()
        self._state.write("keeper", {"served": served, "number": self._number})

    # What is told

    def _tell(self) -> None:
        if self._served is None:
            return  # who answers now has loaded everything: the state that the first plan came with holds
        numbers = self._crew.numbers()
        self._plans = {
            number: plan
            for number, plan in self._plans.items()
            if number in numbers or plan in (self._plan, self._served)
        }
        live = [self._plans[number] for number in numbers if number in self._plans]
        failed = {**self.coming.failures(), **self._failures.why()}
        begun = self._crew.has_begun(self._plan.number)
        self.lives.settle(self._plan, self._served, live, failed, self.coming.versions, begun=begun)
        if self._writer.write(self.statuses(), self.labels.current(), self.lives.counts()):
            self._crew.state_changed()

    def statuses(self) -> dict[str, list[VersionStatus]]:
        """The state of every version, by model."""
        return self.coming.noted(self.lives.statuses(self.names()))

    def names(self) -> list[str]:
        """Models that are to be served, or were to be fetched."""
        return list(dict.fromkeys((*(one.name for one in self.wishes.configs(self.configured)), *self.coming.names)))

    def in_use(self) -> set[Path]:
        """The version directories that workers have loaded or are to load."""
        return {one.path for plan in self._plans.values() for _, one in plan.versions()}

    def refresh(self) -> None:
        """Hears and tells now, without a new decision: before an operator is answered."""
        self._hear(time.monotonic())
        self._tell()
