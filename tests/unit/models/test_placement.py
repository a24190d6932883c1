"""Where models run: workers, runs, threads and devices, by flags, the configuration file, model.toml and the rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from changing import half_version
from thriftserve.errors import ConfigError
from thriftserve.models import devices as device_choice
from thriftserve.models import process_layout
from thriftserve.models.devices import SessionOptions
from thriftserve.models.loader import load
from thriftserve.models.process_layout import lay_out
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import BatchingSettings, RunSettings
from thriftserve.repository.plan import PlannedModel
from thriftserve.repository.versions import ModelConfig, VersionDir
from thriftserve.settings import ServeSettings

CPU = ServeSettings(devices="cpu")


def model(base: Path, name: str = "m", text: str = "", session: RunSettings | None = None) -> PlannedModel:
    """A model whose version 1 has that model.toml, and for which the configuration says that."""
    version = base / name / "1"
    version.mkdir(parents=True)
    (version / "model.toml").write_text(text)
    config = ModelConfig(name, "tensorflow", str(base / name), session=session)
    return PlannedModel.of(config, (VersionDir(1, version),))


def arrangement(settings: ServeSettings) -> tuple[int | None, ...]:
    """Workers, runs at once, threads in and between operations."""
    return tuple(getattr(settings, key) for key in process_layout.KEYS)


def test_flags_then_configuration_then_file_then_rule(tmp_path: Path) -> None:
    """What goes first of those that speak of one thing, key by key."""
    file = "[session]\nworkers = 3\nintra_op_threads = 5\n"
    assert arrangement(lay_out(CPU, [model(tmp_path, "rule")], cores=8)) == (4, 2, 1, None)
    assert arrangement(lay_out(CPU, [model(tmp_path, "file", file)], cores=8)) == (3, 2, 5, None)
    configured = model(tmp_path, "configured", file, RunSettings(workers=6, inter_op_threads=2))
    assert arrangement(lay_out(CPU, [configured], cores=8)) == (6, 2, 1, 2)
    flags = replace(CPU, workers=7, runs_per_worker=1)
    assert arrangement(lay_out(flags, [configured], cores=8)) == (7, 1, 1, 2)


def test_other_server_types_have_what_they_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Workers are for types that have several, threads for all; of a model.toml the rest is told to have no effect."""
    tuned = model(tmp_path, "m", "[session]\nworkers = 3\nruns_per_worker = 2\nintra_op_threads = 4\n")
    pool = replace(CPU, server_type="TProcessPoolServer")
    assert arrangement(lay_out(pool, [tuned])) == (3, None, 4, None)
    assert lay_out(pool, [tuned]).worker_processes == 3
    threaded = lay_out(replace(CPU, server_type="TThreadedServer"), [tuned])
    assert arrangement(threaded) == (None, None, 4, None)
    assert "TThreadedServer has no use for workers, which a model.toml sets: m 3" in caplog.text
    configured = ModelConfig("m", "tensorflow", "/m", session=RunSettings(workers=2))
    process_layout.check(pool, [configured])
    with pytest.raises(ConfigError, match=r"model 'm': workers = 2: TThreadedServer has no use for it: leave it out"):
        process_layout.check(threaded, [configured])


def test_models_that_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every worker serves every model: the largest number holds, and that is told."""
    models = [model(tmp_path, name, session=RunSettings(workers=count)) for name, count in (("a", 2), ("b", 5))]
    assert lay_out(CPU, models, cores=2).workers == 5
    assert "models differ in workers (a 2, b 5)" in caplog.text
    before, now = lay_out(CPU, models[:1], cores=2), lay_out(CPU, models, cores=2)
    assert process_layout.list_changes(before, now) == ["workers 2 -> 5"]


def on(*devices: str | None, platform: str = "tensorflow") -> list[ModelConfig]:
    """Models that ask for these devices."""
    return [ModelConfig(f"m{number}", platform, "/m", devices=one) for number, one in enumerate(devices)]


@pytest.mark.parametrize(
    ("server", "models", "chosen"),
    [
        ("auto", on(None, None), "auto"),
        ("auto", on("cpu", "cpu"), "cpu"),
        ("auto", on("cpu", "cpu", platform="python"), "cpu"),
        ("auto", on("cpu", None), "auto"),
        ("auto", on("cpu", "gpu:1,gpu:0", None, "auto", "gpu:0, gpu:1"), "gpu:1,gpu:0"),
        ("gpu:0", on("gpu:0", "cpu"), "gpu:0"),
        ("cpu", on("cpu", None), "cpu"),
    ],
)
def test_devices_that_models_ask_for(server: str, models: list[ModelConfig], chosen: str) -> None:
    """The server takes the GPUs that its models name; a model that wants the CPU leaves them to the others."""
    assert device_choice.choose_devices(ServeSettings(devices=server), models).devices == chosen


@pytest.mark.parametrize(
    ("server", "models", "told"),
    [
        ("auto", on("gpu:0", "gpu:1"), "model 'm1': devices = 'gpu:1': another model has 'gpu:0', and every worker"),
        ("cpu", on(None, "gpu:1"), "model 'm1': devices = 'gpu:1': devices is 'cpu' for the server"),
        ("gpu:0", on("cpu", platform="python"), "model 'm0': devices = 'cpu': a Python class sees the device of"),
    ],
)
def test_devices_that_can_not_be_had(server: str, models: list[ModelConfig], told: str) -> None:
    """What one server can't give is an error with the remedy, and not another device."""
    with pytest.raises(ConfigError, match=told):
        device_choice.choose_devices(ServeSettings(devices=server), models)


def test_what_the_configuration_says_is_loaded() -> None:
    """A model's batching and images are as the configuration has them, and it is on the CPU beside a worker's GPU."""
    batching, image = BatchingSettings(max_batch_size=3), ImageSettings(height=5, width=5)
    there = SessionOptions("gpu:99")  # where nothing could be loaded
    version = half_version()
    saved = ModelConfig("m", "tensorflow", str(version.parent), batching=batching, image=image, devices="cpu")
    python = ModelConfig("p", "python", "served_models:Doubler", batching=batching, image=image)
    for servable in (load(saved, there, VersionDir(1, version)), load(python, there)):
        assert (servable.batching, servable.image) == (batching, image)
        servable.session.close()
