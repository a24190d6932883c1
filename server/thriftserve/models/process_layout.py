"""How sessions lie over processes, threads and cores.

    flags | configuration file | model.toml [session] | cores, devices  -->  workers x runs at once x threads

What a flag says goes first, then what the configuration says of a model, then its newest version's model.toml
(`thriftserve model tune` writes it there), then the rule: on the CPU every core of a batching server has one run, two
runs share a process, for they share its memory and the interpreter's lock is free while they run; on GPUs there is a
process for each device. Python models hold the lock while they run, so they get a process for each core.

Every worker serves every model: of several models that speak of one thing the largest number holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from thriftserve.cores import usable_cores
from thriftserve.errors import ConfigError
from thriftserve.models import devices
from thriftserve.repository import model_settings
from thriftserve.repository.model_settings import UNSET, RunSettings
from thriftserve.repository.plan import PlannedModel
from thriftserve.repository.versions import ModelConfig
from thriftserve.settings import ServeSettings
from thriftserve.settings.host import server_type_uses

#: What is placed, by the names of the settings; `RunSettings` has the same, in this order.
KEYS = ("workers", "runs_per_worker", "intra_op_threads", "inter_op_threads")
#: Runs at once in one process on the CPU.
RUNS_ON_CPU = 2

log = logging.getLogger(__name__)


def placed(settings: ServeSettings, models: Sequence[PlannedModel], cores: int | None = None) -> ServeSettings:
    """The settings with workers, runs and threads filled in, as far as the server type has them.

    Args:
        settings: as given.
        models: what is served.
        cores: all that may be used; None: what the system gives.

    Raises:
        ModelLoadError: a model.toml can't be read.
    """
    told = _told(settings.server_type, models)
    settings = replace(
        settings,
        workers=settings.workers or told.workers,
        runs_per_worker=settings.runs_per_worker or told.runs_per_worker,
        intra_op_threads=settings.intra_op_threads or told.intra_op_threads,
        inter_op_threads=settings.inter_op_threads or told.inter_op_threads,
    )
    if settings.server_type != "TBatchingServer":
        return settings
    cores = cores or usable_cores()
    tensorflow = any(model.config.platform == "tensorflow" for model in models)
    gpus = 0 if settings.devices == devices.CPU else len(set(devices.plan(settings.devices, 256)) - {devices.CPU})
    runs = settings.runs_per_worker or (min(RUNS_ON_CPU, cores) if tensorflow and not gpus else 1)
    workers = settings.workers or gpus or max(1, -(-cores // runs))
    threads = settings.intra_op_threads or max(1, cores // (workers * runs))
    return replace(settings, workers=workers, runs_per_worker=runs, intra_op_threads=threads)


def changed(before: ServeSettings, now: ServeSettings) -> list[str]:
    """What of the placement differs, in words: a running server keeps the one that it was started with."""
    return [
        f"{name} {getattr(before, name)} -> {getattr(now, name)}"
        for name in KEYS
        if getattr(before, name) != getattr(now, name)
    ]


def check(settings: ServeSettings, configs: Iterable[ModelConfig]) -> None:
    """Sees that the server type has a use for what the configuration says of each model.

    Raises:
        ConfigError: it has not; names the model and the key.
    """
    for config in configs:
        for key in KEYS:
            number = getattr(config.session, key, None)
            if number is not None and not server_type_uses(settings.server_type, key):
                raise ConfigError(
                    f"model {config.name!r}: {key} = {number}: {settings.server_type} has no use for it: leave it out"
                )


def _told(server_type: str, models: Sequence[PlannedModel]) -> RunSettings:
    said = {model.config.name: _said(model) for model in models}
    return RunSettings(*(_largest(server_type, key, said) for key in KEYS))


def _said(model: PlannedModel) -> RunSettings:
    if model.config.session is not None:
        return model.config.session
    if model.config.platform != "tensorflow":
        return UNSET.session
    return model_settings.load(model.versions[0].path).session


def _largest(server_type: str, key: str, said: Mapping[str, RunSettings]) -> int | None:
    numbers = {name: number for name, one in said.items() if (number := getattr(one, key)) is not None}
    words = ", ".join(f"{name} {number}" for name, number in numbers.items())
    if numbers and not server_type_uses(server_type, key):
        log.warning("%s has no use for %s, which a model.toml sets: %s", server_type, key, words)
        return None
    if len(set(numbers.values())) > 1:
        log.warning("models differ in %s (%s): every worker serves every model, with the largest", key, words)
    return max(numbers.values(), default=None)
