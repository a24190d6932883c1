"""The model controller: decides which versions are served, has workers replaced, publishes the state of each version.

    configuration, base paths, overrides  --step-->  plan.json  --reload-->  workers
    workers: what they loaded, what failed  -->  states, labels  -->  state.json

It loads no model itself. Everything that it decided is in the state directory: a controller that replaces one that
died goes on from there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from thriftserve.controller.configuration import Configuration
from thriftserve.controller.fetch_jobs import PendingVersions
from thriftserve.controller.lifecycle import LoadBackoff, RetryPolicy, VersionTracker
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.controller.rollout import (
    PlacementWarning,
    Workers,
    WorkerSet,
    desired_versions,
    next_plan,
    rollout_in_progress,
)
from thriftserve.controller.sources import MirrorClient, PollIntervals, SourceWatcher, mirror_cache
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

#: Seconds between two steps while workers are being replaced, and at most otherwise.
_BUSY_S = 0.05
_IDLE_S = 1.0

log = logging.getLogger(__name__)


class ModelController:
    """The controller of a server, in a process of its own.

    `run` works in one thread; `stop` and `ask_reload` may be called from any thread and signal handler. Hold `lock`
    to call anything else.

    Args:
        read_settings: returns the settings as they are now.
        settings: as they were at the start.
        state: the state directory; `write_first_plan` has written the plan.
        watcher: has polled the base paths once.
        workers: the worker processes.
        placed: the settings that the server started with, with the placement of its workers.
        on_reload: called with settings that were read again.

    Attributes:
        overrides: what operators asked for.
        tracker: the state of each version.
        labels: the labels of each model.
        pending: versions that are asked for and in no plan yet.
    """

    def __init__(
        self,
        read_settings: Callable[[], ServeSettings],
        settings: ServeSettings,
        state: StateDir,
        watcher: Watcher,
        workers: Workers,
        placed: ServeSettings,
        on_reload: Callable[[ServeSettings], None] = lambda settings: None,
    ) -> None:
        self.lock = threading.RLock()
        self._wake = threading.Event()
        self._stopped = False
        self._reload_asked = False
        self._state = state
        self._state_writer = StateWriter(state)
        self._workers = WorkerSet(workers, placed.worker_processes)
        # The configuration that holds, and what follows from it.
        self._configuration = Configuration(read_settings, settings, state)
        self._on_reload = on_reload
        self._placement = PlacementWarning(placed)
        self.overrides = OperatorOverrides(state, self.configured)
        self.labels = Labels(state.labels_file)
        self.labels.configure(self._configured_labels())
        self._backoff = LoadBackoff(self._retry_policy)
        # The rollout: the plan that was published last, and the one that every worker has loaded (None: none yet).
        self._plan = Plan.from_json(state.read("plan"))
        saved = state.read("keeper") or {"served": None, "number": self._plan.number}
        self._served = None if saved["served"] is None else Plan.from_json(saved["served"])
        self._last_number: int = saved["number"]
        self._force_rollout = False
        self._fallbacks = 0
        self._paused_until = 0.0
        #: Plans that workers may have loaded, by number.
        self._plans = {plan.number: plan for plan in (self._plan, self._served) if plan is not None}
        previous = None if self._served is None else StateReader(state, lambda: 0)
        self.tracker = VersionTracker(previous, frees_first=placed.swap_policy == "resource")
        # The versions that there are, and those that are on their way.
        self._sources = SourceWatcher(watcher, partial(MirrorClient, mirror_cache(settings, state)), self._wake.set)
        self._sources.configure(self.configs(), self._intervals, self._plans.values(), time.monotonic())
        self.pending = PendingVersions(
            lambda: self._configuration.settings, state, self.overrides, self.lock, self._load_fetched, self._wake.set
        )

    @property
    def configured(self) -> tuple[ModelConfig, ...]:
        """The models of the configuration that holds."""
        return self._configuration.models

    def configs(self) -> tuple[ModelConfig, ...]:
        """Return the models to serve: the configuration with the overrides applied."""
        return self.overrides.configs(self.configured)

    @property
    def _retry_policy(self) -> RetryPolicy:
        return RetryPolicy.from_settings(self._configuration.settings)

    @property
    def _intervals(self) -> PollIntervals:
        return PollIntervals.from_settings(self._configuration.settings)

    # The loop

    def run(self) -> None:
        """Control the models until `stop`."""
        with self.lock:
            self.pending.fetches.resume()
        try:
            while not self._stopped:
                try:
                    wait_s = self.step()
                except Exception:  # what is served stays; the next step may succeed
                    log.exception("the controller's step failed; next try in %g s", _IDLE_S)
                    wait_s = _IDLE_S
                self._wake.wait(wait_s)
                self._wake.clear()
        finally:
            self.pending.fetches.stop()
            self._sources.close()

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopped = True
        self._wake.set()

    def ask_reload(self) -> None:
        """Have the configuration read again and every worker replaced."""
        self._reload_asked = True
        self._wake.set()

    def step(self) -> float:
        """Look at everything once and do what follows from it.

        Returns:
            Seconds until the next step is due.
        """
        with self.lock:
            now = time.monotonic()
            if self._reload_asked or now >= self._configuration.due_at:
                self._check_configuration(now)
            for name, version in self._sources.poll(self._intervals, now):
                self._backoff.forget(name, version)
            self._collect_load_results(now)
            self._decide(now)
            self._publish_state()
            if self._served is not self._plan:
                return _BUSY_S
            return max(_BUSY_S, min(self._sources.due_at - now, self._configuration.due_at - now, _IDLE_S))

    # Configuration and overrides

    def _check_configuration(self, now: float) -> None:
        """Read the configuration again if its file has changed or an operator asked for it."""
        asked, self._reload_asked = self._reload_asked, False
        if not self._configuration.check_file(now) and not asked:
            return
        try:
            settings, configured = self._configuration.read()
            labels = {config.name: config.labels for config in configured}
            allowed = settings.allow_unavailable_labels
            self.labels.configure(labels, self._available(configured), allow_unavailable=allowed)
        except (StartError, FailedPrecondition) as error:
            log.error("the configuration can't be used, the old one stays: %s", error.message)
            return
        self._on_reload(settings)
        self._configuration.adopt(settings, configured)
        self._force_rollout = asked
        self._backoff.reset(self._retry_policy)
        self.overrides.reset(configured)
        self.pending.fetches.cancel_all("the configuration was read again")
        self.reconfigure()
        self._sources.restart(now)

    def reconfigure(self) -> None:
        """Follow changed overrides: watch the models that are to be served now."""
        configs = self.configs()
        self.labels.configure(self._configured_labels(), self._available(configs))
        self._sources.configure(configs, self._intervals, self._plans.values(), time.monotonic())
        self._wake.set()

    def load(self, name: str, source: str, version: int | None) -> None:
        """Have a model served from a base path, whatever failed before: one version of it, or the newest if None."""
        self.overrides.load(name, source, version)
        self._backoff.forget_model(name)
        self.reconfigure()
        self._sources.restart(time.monotonic())

    def _load_fetched(self, name: str, base_path: Path, version: int) -> set[Path]:
        self.load(name, str(base_path), version)
        return self._used_paths()

    def _configured_labels(self) -> dict[str, Mapping[str, int]]:
        return {config.name: config.labels for config in self.configs()}

    def _available(self, configs: Iterable[ModelConfig]) -> dict[str, frozenset[int]]:
        return {config.name: self.tracker.available(config.name) for config in configs}

    # What workers have loaded

    def _collect_load_results(self, now: float) -> None:
        for result in collect_load_results(self._state):
            for (name, version), load_time_s in result.load_times_s.items():
                self.tracker.note_load_time(name, version, load_time_s)
            # If one of the first workers ends, the supervisor starts it again or ends the server.
            if self._served is not None or result.done:
                for failure in result.failures:
                    self._note_failure(failure, now)
        if self._served is not self._plan and self._workers.all_have(self._plan.number):
            self._complete_rollout()

    def _note_failure(self, failure: LoadFailure, now: float) -> None:
        key = failure.name, failure.version
        if self._served is not None and key in self._served.version_keys():
            log.error("model %s version %d can't be loaded again: %s", *key, failure.message)
            self._fall_back(now)
            return
        for name, directory in self._plan.versions():
            if (name, directory.version) == key:
                self._backoff.record(failure, directory, now)

    def _fall_back(self, now: float) -> None:
        """Return to the plan that is served, for new workers can't even load that: the present ones must last."""
        assert self._served is not None
        self._fallbacks += 1
        self._paused_until = now + self._retry_policy.pause_s(min(self._fallbacks, max(1, self._retry_policy.retries)))
        self._publish_plan(self._served, now)

    def _complete_rollout(self) -> None:
        if self._plan.first:
            self._leave_out_failed()
        self._served = self._plan
        self._fallbacks, self._paused_until = 0, 0.0
        for name, version in self._plan.version_keys():
            self._backoff.forget(name, version)
        self._save()

    def _leave_out_failed(self) -> None:
        """Take from the first plan what its workers have left out: what failed, of models with other versions."""
        self._plan = self._plan.without(self._backoff.failures())
        self._plans[self._plan.number] = self._plan
        self._state.write("plan", self._plan.to_json())

    # The next plan

    def _decide(self, now: float) -> None:
        """Publish the next plan if there is something to change and no rollout in progress."""
        if self._served is None or not self._sources.settled:
            return
        suspended = self._backoff.suspended(now)
        if self._served is not self._plan and rollout_in_progress(self._plan, self._workers.plans(), suspended):
            self._workers.repeat_if_stalled(self._plan.number, now)
            return
        wanted = {name: self.overrides.versions(name, versions) for name, versions in self._sources.wanted.items()}
        models = desired_versions(self.configs(), wanted, suspended, self._served)
        if not self._force_rollout and now < self._paused_until:
            return
        plan = next_plan(models, self._plan, self._served, self._last_number + 1, force=self._force_rollout)
        self._force_rollout = False
        if plan is self._plan:
            self._workers.repeat_if_stalled(plan.number, now)
        else:
            self._last_number = max(self._last_number, plan.number)
            self._publish_plan(plan, now)
        self.pending.forget_requested()

    def _publish_plan(self, plan: Plan, now: float) -> None:
        self._placement.check(self._configuration.settings, plan)
        self._plan = plan
        self._plans[plan.number] = plan
        self._state.write("plan", plan.to_json())
        self._save()
        self._sources.protect(self._intervals, self._plans.values(), now)
        self._workers.roll_out(plan.number, now)

    def _save(self) -> None:
        served = None if self._served is None else self._served.to_json()
        self._state.write("keeper", {"served": served, "number": self._last_number})

    # The state of each version

    def _publish_state(self) -> None:
        if self._served is None:
            return  # a worker answers only with all of the first plan: the state written with that plan is true
        numbers = self._workers.plan_numbers()
        self._plans = {
            number: plan
            for number, plan in self._plans.items()
            if number in numbers or plan in (self._plan, self._served)
        }
        live = [self._plans[number] for number in numbers if number in self._plans]
        failed = {**self.pending.failures(), **self._backoff.failures()}
        begun = self._workers.has_begun(self._plan.number)
        self.tracker.settle(self._plan, self._served, live, failed, self.pending.versions, begun=begun)
        if self._state_writer.write(self.statuses(), self.labels.current(), self.tracker.counts()):
            self._workers.state_changed()

    def refresh(self) -> None:
        """Bring the states up to date without a new decision, before an operator is answered."""
        self._collect_load_results(time.monotonic())
        self._publish_state()

    def statuses(self) -> dict[str, list[VersionStatus]]:
        """Return the state of every version, by model."""
        return self.pending.annotate(self.tracker.statuses(self.model_names()))

    def model_names(self) -> Sequence[str]:
        """Return the models that are to be served, and those that are or were to be fetched."""
        return list(dict.fromkeys((*(config.name for config in self.configs()), *self.pending.model_names)))

    def _used_paths(self) -> set[Path]:
        """Return the version directories that workers have loaded or are to load."""
        return {version.path for plan in self._plans.values() for _, version in plan.versions()}
