"""Sources of versions: when base paths are polled, and the agent that mirrors those behind URLs."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from thriftserve.controller.configuration import Configuration, save_configuration
from thriftserve.controller.sources import (
    MirrorClient,
    MirrorReport,
    PollIntervals,
    SourceWatcher,
    local_base_path,
    mirror_cache,
)
from thriftserve.errors import ConfigError
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import ModelConfig
from thriftserve.repository.watcher import Watcher
from thriftserve.settings import ServeSettings
from thriftserve_bench.process_tree import signal_process
from thriftserve_proto.saved_model_pb2 import SavedModel
from web_directory import http_server

INTERVALS = PollIntervals(repository_s=10.0, mirror_s=0.0)


def put(base: Path, version: int) -> None:
    """A version that is whole: a graph without variables."""
    (base / str(version)).mkdir(parents=True)
    saved_model = SavedModel()
    saved_model.saved_model_schema_version = 1
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
    (base / str(version) / "saved_model.pb").write_bytes(saved_model.SerializeToString())


class Sources:
    """A watcher of one base path, and the call by which a mirror says that it has changed."""

    def __init__(self, base: Path, cache: Path) -> None:
        self.mirror_changed: Callable[[], None]
        self.woken = 0
        configs = [ModelConfig("m", "tensorflow", str(base))]

        def make_mirrors(on_change: Callable[[], None]) -> MirrorClient:
            self.mirror_changed = on_change
            return MirrorClient(cache, on_change)

        watcher = Watcher(configs)
        watcher.poll(settled=True)
        self.watcher = SourceWatcher(watcher, make_mirrors, self._wake)
        self.watcher.configure(configs, INTERVALS, (), 0.0)

    def _wake(self) -> None:
        self.woken += 1

    def wanted(self) -> list[int]:
        return [version.version for version in self.watcher.wanted["m"]]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    put(tmp_path / "m", 1)
    return Sources(tmp_path / "m", tmp_path / "cache")


def test_two_polls_settle_and_then_the_interval_holds(sources: Sources) -> None:
    """The second poll follows within a second; the others have the interval between them."""
    assert not sources.watcher.settled
    sources.watcher.poll(INTERVALS, 100.0)
    assert (sources.watcher.settled, sources.watcher.due_at) == (False, 101.0)
    sources.watcher.poll(INTERVALS, 100.5)  # not due
    assert not sources.watcher.settled
    sources.watcher.poll(INTERVALS, 101.0)
    assert (sources.watcher.settled, sources.watcher.due_at, sources.wanted()) == (True, 111.0, [1])
    sources.watcher.poll(INTERVALS, 111.0)
    assert (sources.watcher.settled, sources.watcher.due_at) == (True, 121.0)


def test_without_an_interval_it_polls_only_when_asked(sources: Sources, tmp_path: Path) -> None:
    """file_system_poll_s 0: two polls, and none until `restart`, which takes two again."""
    never = PollIntervals(repository_s=0.0, mirror_s=0.0)
    for now in (100.0, 101.0):
        sources.watcher.poll(never, now)
    assert sources.watcher.due_at == math.inf
    put(tmp_path / "m", 2)
    sources.watcher.poll(never, 1e9)
    assert sources.wanted() == [1]
    sources.watcher.restart(1e9)
    assert not sources.watcher.settled
    for now in (1e9, 1e9 + 1):
        sources.watcher.poll(never, now)
    assert (sources.watcher.settled, sources.wanted()) == (True, [2])


def test_mirror_that_changes_is_polled_at_once(sources: Sources, tmp_path: Path) -> None:
    """The owner is woken, and two polls are due, whatever the interval says."""
    for now in (100.0, 101.0):
        sources.watcher.poll(INTERVALS, now)
    put(tmp_path / "m", 2)
    sources.mirror_changed()
    assert sources.woken == 1
    sources.watcher.poll(INTERVALS, 102.0)
    assert not sources.watcher.settled
    assert sources.watcher.poll(INTERVALS, 103.0) == [("m", 1)]  # which is replaced
    assert (sources.watcher.settled, sources.wanted()) == (True, [2])


def test_where_versions_are(tmp_path: Path) -> None:
    """A base path is where it says; a URL has a directory in the cache, which is in the state directory by default."""
    state = StateDir(tmp_path)
    assert mirror_cache(ServeSettings(model=("m=/m",)), state) == tmp_path / "remote"
    assert mirror_cache(ServeSettings(model=("m=/m",), mirror_dir="/mirrors"), state) == Path("/mirrors")
    assert local_base_path(tmp_path, ModelConfig("m", "tensorflow", "/models/m")) == Path("/models/m")
    assert local_base_path(tmp_path, ModelConfig("m", "tensorflow", "s3://b/m")).parent == tmp_path


@pytest.fixture
def mirrors(tmp_path: Path) -> Iterator[MirrorClient]:
    client = MirrorClient(tmp_path / "cache")
    yield client
    client.close()


def is_alive(mirrors: MirrorClient) -> bool:
    return mirrors.alive


def _agents() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "thriftserve.remote.mirror_agent" in child.cmdline()]


def test_agent_that_dies_is_started_again_after_a_pause(mirrors: MirrorClient, tmp_path: Path) -> None:
    """After a second, then after two; once it reports, after one second again."""
    put(tmp_path / "web" / "m", 1)
    with http_server(tmp_path / "web") as (url, _):
        mirrors.configure([ModelConfig("m", "tensorflow", f"{url}/m")], 0.0, (), 100.0)
        for died_at, pause_s in ((100.0, 1.0), (200.0, 2.0)):
            assert is_alive(mirrors)
            (agent,) = _agents()
            signal_process(agent.pid, signal.SIGKILL)
            agent.wait()
            mirrors.ensure_running(died_at)
            assert not is_alive(mirrors)
            mirrors.ensure_running(died_at + pause_s - 0.01)
            assert not is_alive(mirrors)
            mirrors.ensure_running(died_at + pause_s)
        while not mirrors.report(f"{url}/m").settled:
            mirrors.wait_for_report(1.0)
        (agent,) = _agents()
        signal_process(agent.pid, signal.SIGKILL)
        agent.wait()
        mirrors.ensure_running(300.0)
        mirrors.ensure_running(301.0)
        assert is_alive(mirrors)


def test_no_agent_runs_without_a_url(mirrors: MirrorClient) -> None:
    """A configuration without URLs starts nothing, and nothing is known of any URL."""
    mirrors.configure([ModelConfig("m", "tensorflow", "/models/m")], 1.0, (), 100.0)
    mirrors.sync(100.0)
    assert (mirrors.alive, mirrors.report("http://nowhere/m")) == (False, MirrorReport())


def test_configuration_file_that_changes(tmp_path: Path) -> None:
    """A change is seen once; what is adopted holds for the next controller, whatever the file says by then."""
    file, state = tmp_path / "models.config", StateDir(tmp_path / "state")
    state.prepare()

    def write(name: str) -> None:
        file.write_text(
            f'model_config_list {{ config {{ name: "{name}" base_path: "/m" model_platform: "tensorflow" }} }}'
        )

    write("first")
    settings = ServeSettings(model_config_file=str(file), model_config_poll_s=5.0)
    configuration = Configuration(lambda: settings, settings, state)
    assert [config.name for config in configuration.models] == ["first"]
    assert not configuration.check_file(100.0)
    assert configuration.due_at == 105.0
    write("second_one")
    assert configuration.check_file(105.0)
    assert not configuration.check_file(110.0)
    configuration.adopt(*configuration.read())
    write("third")
    successor = Configuration(lambda: settings, settings, state)
    assert [config.name for config in successor.models] == ["second_one"]
    assert successor.check_file(120.0)  # the file changed while no controller ran


def test_configuration_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    """Reading raises, and what held before holds."""
    state = StateDir(tmp_path)
    state.prepare()
    settings = ServeSettings(model=("m=/m",))
    save_configuration(state, (ModelConfig("m", "tensorflow", "/m"),), None)
    configuration = Configuration(ServeSettings, settings, state)
    with pytest.raises(ConfigError, match="no model to serve"):
        configuration.read()
    assert [config.name for config in configuration.models] == ["m"]
    assert (configuration.settings, configuration.due_at) == (settings, math.inf)
