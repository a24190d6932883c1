"""Rollouts: which versions are to be served, which plan follows, and how far the workers are with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from thriftserve.controller.configuration import write_first_plan
from thriftserve.controller.controller import ModelController
from thriftserve.controller.rollout import (
    PlacementWarning,
    WorkerSet,
    desired_versions,
    next_plan,
    rollout_in_progress,
)
from thriftserve.errors import ModelLoadError
from thriftserve.repository.plan import Plan, PlannedModel
from thriftserve.repository.state_store import LoadReport, StateDir
from thriftserve.repository.versions import All, Latest, ModelConfig, Specific, VersionDir, VersionPolicy
from thriftserve.settings import ServeSettings
from thriftserve.status import WorkerPhase
from thriftserve_idl.ttypes import ModelState
from thriftserve_proto.saved_model_pb2 import SavedModel

STARTING, IDLE, BUSY, DRAINING = WorkerPhase.STARTING, WorkerPhase.IDLE, WorkerPhase.BUSY, WorkerPhase.DRAINING
POLL_S = 0.001
Processes = list[tuple[WorkerPhase, int]]


def directory(version: int, base: str = "/m") -> VersionDir:
    return VersionDir(version, Path(base, str(version)))


def model(policy: VersionPolicy, *versions: int, name: str = "m") -> PlannedModel:
    config = ModelConfig(name, "tensorflow", f"/{name}", policy)
    return PlannedModel.of(config, tuple(directory(version, f"/{name}") for version in versions))


def numbers(models: Sequence[PlannedModel]) -> list[int]:
    return [version.version for model in models for version in model.versions]


class Workers:
    """Worker processes that change only when a test says so."""

    def __init__(self, *processes: tuple[WorkerPhase, int]) -> None:
        self.processes: Processes = list(processes)
        self.reloads = 0

    def plans(self) -> Processes:
        return self.processes

    def reload(self) -> None:
        self.reloads += 1

    def state_changed(self) -> None:
        pass


@pytest.mark.parametrize(
    ("policy", "wanted", "suspended", "served", "desired"),
    [
        (Latest(), [3], [], [2], [3]),
        (Latest(), [3], [3], [2], [2]),  # the old version goes on
        (Latest(), [3], [3, 2], [2], []),  # which can't be loaded again either
        (Latest(), [3], [3], [], []),  # nothing was served
        (Latest(2), [4, 3], [4], [3, 2], [3, 2]),
        (Latest(2), [4, 3], [4, 3], [2, 1], [2, 1]),
        (Latest(2), [4, 3], [4], [3], [3]),  # never twice the same
        (Latest(2), [4, 3], [3], [2, 1], [4, 2]),  # no more than the policy asks for
        (All(), [3, 2], [3], [2, 1], [2]),  # 1 is not asked for any more, and 2 is enough
        (All(), [3], [3], [2], [2]),  # the model would have no version
        (Specific((3, 5)), [5, 3], [5], [2], [3]),
        (Specific((5,)), [5], [5], [2], [2]),
        (Latest(), [], [], [2], []),  # unloaded
    ],
)
def test_desired_versions(
    policy: VersionPolicy, wanted: list[int], suspended: list[int], served: list[int], desired: list[int]
) -> None:
    """A version that can't be loaded is left out; where the policy leaves it open, what is served replaces it."""
    config = ModelConfig("m", "tensorflow", "/m", policy)
    models = desired_versions(
        [config],
        {"m": tuple(map(directory, wanted))},
        {("m", directory(version)) for version in suspended},
        Plan(1, (model(policy, *served),) if served else ()),
    )
    assert numbers(models) == desired


def test_desired_versions_keep_the_order_of_the_configuration() -> None:
    """Models are in the order of the configuration, without policy and labels: these concern no worker."""
    configs = [ModelConfig(name, "tensorflow", f"/{name}", All(), {"stable": 1}) for name in ("b", "a")]
    models = desired_versions(configs, {"a": (directory(1),), "b": (directory(2),)}, (), None)
    assert [model.config.name for model in models] == ["b", "a"]
    assert all((model.config.policy, model.config.labels) == (Latest(), {}) for model in models)


@pytest.mark.parametrize(
    ("workers", "in_progress"),
    [
        ([(IDLE, 2), (IDLE, 2)], False),
        ([(IDLE, 2), (IDLE, 1)], True),
        ([(IDLE, 2), (STARTING, 0)], True),
        ([(IDLE, 2), (DRAINING, 1)], True),
        ([(IDLE, 2), (BUSY, 2)], True),
        ([], False),  # every worker is lost: nothing waits for them
    ],
)
def test_rollout_is_in_progress_until_all_idle_workers_have_the_plan(workers: Processes, in_progress: bool) -> None:
    """A worker that starts, drains, or has another plan, keeps the next plan waiting."""
    assert rollout_in_progress(Plan(2, (model(Latest(), 2),)), workers, ()) is in_progress


def test_plan_with_a_suspended_version_is_not_waited_for() -> None:
    """The next plan leaves the failed version out, and waits for no worker. Other models' versions don't count."""
    plan, workers = Plan(2, (model(Latest(), 2),)), [(STARTING, 0), (IDLE, 1)]
    assert not rollout_in_progress(plan, workers, {("m", directory(2))})
    assert rollout_in_progress(plan, workers, {("m", directory(3)), ("other", directory(2))})


def test_next_plan() -> None:
    """Nothing new keeps the plan; what is served already is fallen back to; anything else has a new number."""
    one, two, three = (model(Latest(), version) for version in (1, 2, 3))
    served, plan = Plan(1, (one,)), Plan(2, (two,))
    assert next_plan((two,), plan, served, 3, force=False) is plan
    assert next_plan((one,), plan, served, 3, force=False) is served
    assert next_plan((three,), plan, served, 3, force=False) == Plan(3, (three,))
    assert next_plan((), plan, served, 3, force=False) == Plan(3, ())  # every model was unloaded
    assert next_plan((two,), plan, served, 3, force=True) == Plan(3, (two,))
    # A rollout of the same models in progress is gone on with.
    again = Plan(2, (one,))
    assert next_plan((one,), again, served, 3, force=False) is again


def test_workers_are_replaced_only_if_one_that_serves_lacks_the_plan() -> None:
    """Workers that start load the published plan anyway; those that drain are replaced already."""
    workers = Workers((IDLE, 2), (STARTING, 0), (DRAINING, 1))
    WorkerSet(workers, 2).roll_out(2, now=0.0)
    assert workers.reloads == 0
    workers.processes[0] = (IDLE, 1)
    WorkerSet(workers, 2).roll_out(2, now=0.0)
    assert workers.reloads == 1


def test_all_have_a_plan_once_none_is_missing() -> None:
    """Until every place has an idle worker with the plan, the old one is what is served."""
    workers = Workers((IDLE, 2))
    pair = WorkerSet(workers, 2)
    assert not pair.all_have(2)  # one was lost
    workers.processes.append((STARTING, 0))
    assert not pair.all_have(2)
    workers.processes[1] = (IDLE, 1)
    assert not pair.all_have(2)
    workers.processes[1] = (IDLE, 2)
    assert pair.all_have(2)
    workers.processes.append((DRAINING, 1))  # its end need not be waited for
    assert pair.all_have(2)
    assert pair.plan_numbers() == {1, 2}


def test_rollout_whose_successor_was_lost_is_repeated() -> None:
    """Fifteen seconds after the last request, if nobody is loading the plan; each repetition counts anew."""
    workers = Workers((IDLE, 1), (IDLE, 2))
    pair = WorkerSet(workers, 2)
    pair.roll_out(2, now=100.0)
    pair.repeat_if_stalled(2, now=115.0)
    assert workers.reloads == 1
    workers.processes[0] = (STARTING, 0)
    assert pair.has_begun(3)
    pair.repeat_if_stalled(2, now=200.0)  # one is loading
    assert workers.reloads == 1
    workers.processes[0] = (IDLE, 1)
    assert not pair.has_begun(3)
    pair.repeat_if_stalled(2, now=200.0)
    pair.repeat_if_stalled(2, now=214.0)
    assert workers.reloads == 2
    workers.processes[0] = (IDLE, 2)
    pair.repeat_if_stalled(2, now=900.0)
    assert workers.reloads == 2


def test_placement_is_warned_of_once_for_each_difference(caplog: pytest.LogCaptureFixture) -> None:
    """What the workers of a running server can't take up is logged, and not again with the next plan."""
    settings = ServeSettings(model=("m=/m",), server_type="TThreadPoolServer")
    plan = Plan(1, (model(Latest(), 1),))
    warning = PlacementWarning(ServeSettings(model=("m=/m",), server_type="TThreadPoolServer", intra_op_threads=2))
    with caplog.at_level(logging.WARNING):
        warning.check(settings, plan)
        warning.check(settings, plan)
    assert [record.getMessage() for record in caplog.records] == [
        "model config change needs a server restart: intra_op_threads 2 -> None"
    ]


# The controller itself, with workers that load when the test says so.


class Server:
    """A controller on real base paths and a real state directory, and its two workers."""

    def __init__(self, tmp_path: Path) -> None:
        self.base = tmp_path / "m"
        self.put(1)
        self.settings = ServeSettings(
            model=(f"m={self.base}",),
            server_type="TBatchingServer",
            workers=2,
            file_system_poll_s=POLL_S,
            load_retry_interval_s=POLL_S,
        )
        self.state = StateDir(tmp_path / "state")
        plan, self._watcher = write_first_plan(self.settings, _configs(self.settings), self.state)
        self.workers = Workers((IDLE, plan.number), (IDLE, plan.number))
        self.controller = self.start()

    def start(self) -> ModelController:
        """A controller, as a process that takes over from one that died has it."""
        return ModelController(
            lambda: self.settings, self.settings, self.state, self._watcher, self.workers, self.settings
        )

    def put(self, version: int) -> None:
        """A version that is whole: a graph without variables."""
        (self.base / str(version)).mkdir(parents=True)
        saved_model = SavedModel()
        saved_model.saved_model_schema_version = 1
        saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
        (self.base / str(version) / "saved_model.pb").write_bytes(saved_model.SerializeToString())

    def step(self, times: int = 4) -> None:
        """Enough steps for two polls and what follows from them."""
        for _ in range(times):
            time.sleep(POLL_S)
            self.controller.step()

    @property
    def plan(self) -> Plan:
        """The plan as workers read it."""
        return Plan.from_json(self.state.read("plan"))

    def states(self) -> dict[int, ModelState]:
        return {status.version: status.state for status in self.controller.statuses()["m"]}

    def load(self, *failing: int) -> None:
        """All workers load the plan, except versions that fail; then they serve it."""
        report = LoadReport(self.state)
        for name, version in self.plan.versions():
            try:
                with report.loading(name, version.version):
                    if version.version in failing:
                        raise ModelLoadError("too tall")
            except ModelLoadError:
                pass
        report.done()
        if not failing:
            self.workers.processes = [(IDLE, self.plan.number)] * 2


def _configs(settings: ServeSettings) -> list[ModelConfig]:
    return [ModelConfig("m", "tensorflow", settings.model[0].partition("=")[2])]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_plan_replaced_during_a_rollout(server: Server) -> None:
    """A version that appears during a rollout waits until that is over; it then has a plan of its own."""
    server.load()
    server.step()
    server.put(2)
    server.step()
    assert (server.plan.number, numbers(server.plan.models), server.workers.reloads) == (2, [2], 1)
    server.workers.processes[0] = (STARTING, 0)
    server.put(3)
    server.step()
    assert (numbers(server.plan.models), server.workers.reloads) == ([2], 1)
    assert server.states() == {1: ModelState.AVAILABLE, 2: ModelState.LOADING}
    server.load()
    server.step()
    assert (server.plan.number, numbers(server.plan.models), server.workers.reloads) == (3, [3], 2)
    server.load()
    server.step()
    assert server.states() == {1: ModelState.ENDED, 2: ModelState.ENDED, 3: ModelState.AVAILABLE}


def test_version_that_fails_falls_back_and_is_tried_again(server: Server) -> None:
    """The old plan is published at once; the version is tried again under a new number, until it loads."""
    server.load()
    server.step()
    server.put(2)
    server.step()
    server.load(2)
    server.controller.step()
    assert (server.plan.number, numbers(server.plan.models)) == (1, [1])
    assert server.states() == {1: ModelState.AVAILABLE, 2: ModelState.ENDED}
    server.step()
    assert (server.plan.number, numbers(server.plan.models)) == (3, [2])
    server.load()
    server.step()
    assert server.states() == {1: ModelState.ENDED, 2: ModelState.AVAILABLE}


def test_next_controller_goes_on_with_the_rollout(server: Server) -> None:
    """A controller that takes over in the middle of a rollout begins no other, and completes it."""
    server.load()
    server.step()
    server.put(2)
    server.step()
    server.workers.processes[0] = (STARTING, 0)
    server.controller = server.start()
    server.step()
    assert (server.plan.number, server.workers.reloads) == (2, 1)
    assert server.states() == {1: ModelState.AVAILABLE, 2: ModelState.LOADING}
    server.load()
    server.step()
    assert server.states() == {1: ModelState.ENDED, 2: ModelState.AVAILABLE}
    server.put(3)
    server.step()
    assert server.plan.number == 3  # no number is used twice


def test_worker_that_is_replaced_for_other_reasons_delays_no_plan(server: Server) -> None:
    """Without a rollout, a new version does not wait for a worker that is starting."""
    server.load()
    server.step()
    server.workers.processes[0] = (STARTING, 0)
    server.put(2)
    server.step()
    assert (server.plan.number, numbers(server.plan.models), server.workers.reloads) == (2, [2], 1)


def test_reload_replaces_every_worker(server: Server) -> None:
    """Also if nothing has changed: new workers read the settings again."""
    server.load()
    server.step()
    server.controller.ask_reload()
    server.step()
    assert (server.plan.number, numbers(server.plan.models), server.workers.reloads) == (2, [1], 1)
