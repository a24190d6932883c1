"""How a batching server's sessions lie over processes, threads and cores, where nobody has said.

    flags | model.toml [session] | cores, devices  -->  workers x runs at once x threads in an operation

What a flag says goes first, then what a model's model.toml says (`thriftserve model tune` writes it there), then
the rule: on the CPU every core has one run, two runs share a process, for they share its memory and the
interpreter's lock is free while they run; on GPUs there is a process for each device. Python models hold the
lock while they run, so they get a process for each core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thriftserve.models import devices, model_settings
from thriftserve.models.model_settings import RunSettings
from thriftserve.models.state import PlannedModel
from thriftserve.settings import ServeSettings

#: Runs at once in one process on the CPU.
RUNS_ON_CPU = 2


def placed(settings: ServeSettings, models: Sequence[PlannedModel], cores: int | None = None) -> ServeSettings:
    """The settings with workers, runs and threads filled in; as they are for other server types.

    Args:
        settings: as given.
        models: what is served.
        cores: all that may be used; None: what the system gives.

    Raises:
        ModelLoadError: a model.toml can't be read.
    """
    if settings.server_type != "TBatchingServer":
        return settings
    cores = cores or devices.usable_cores()
    told = _told(models)
    tensorflow = any(model.config.platform == "tensorflow" for model in models)
    gpus = 0 if settings.devices == devices.CPU else len(set(devices.plan(settings.devices, 256)) - {devices.CPU})
    runs = settings.runs_per_worker or told.runs_per_worker
    if runs is None:
        runs = min(RUNS_ON_CPU, cores) if tensorflow and not gpus else 1
    workers = settings.workers or told.workers or gpus or max(1, -(-cores // runs))
    threads = settings.intra_op_threads or told.intra_op_threads or max(1, cores // (workers * runs))
    return replace(
        settings,
        workers=workers,
        runs_per_worker=runs,
        intra_op_threads=threads,
        inter_op_threads=settings.inter_op_threads or told.inter_op_threads,
    )


def _told(models: Sequence[PlannedModel]) -> RunSettings:
    """What is said of the models; of several that speak of one thing the largest number."""
    said = [
        model.config.session or model_settings.load(model.versions[0].path).session
        for model in models
        if model.config.session or model.config.platform == "tensorflow"
    ]
    return RunSettings(
        *(
            max((number for one in said if (number := getattr(one, name)) is not None), default=None)
            for name in ("workers", "runs_per_worker", "intra_op_threads", "inter_op_threads")
        )
    )
