"""The pieces put together: settings in, a serving process tree out.

::

    parent:  settings  -->  models, devices checked  -->  server_types.serve(factory, …)
    worker:  factory(context)  -->  device claimed  -->  models loaded, warmed up  -->  processor

The settings are read anew whenever a worker starts: after SIGHUP new workers see a changed file and new versions,
and where they can't start with them, the old workers stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from thrift.Thrift import TProcessor

from thriftserve import __version__, server_types
from thriftserve.batching import MAX_BATCH_SIZE, Batcher
from thriftserve.errors import Code, ConfigError, ExitCode, ModelLoadError
from thriftserve.gateway.beside import group as gateway_group
from thriftserve.handler import ControlHandler, PredictHandler, PredictProcessor, at_front
from thriftserve.models import devices, loader, warmup
from thriftserve.models.devices import SessionOptions
from thriftserve.models.placement import placed
from thriftserve.models.registry import Registry
from thriftserve.models.repository import ModelConfig, newest_version, parse_model_flags
from thriftserve.server_types import ControlContext, Desk, WorkerContext
from thriftserve.settings import HostSettings, ServeSettings
from thriftserve_idl import ModelControl, Predict

logger = logging.getLogger(__name__)

#: What the parent laid out, and workers keep to.
_PLACEMENT = ("workers", "runs_per_worker", "intra_op_threads", "inter_op_threads")

Source = Callable[[], ServeSettings]


def serve(source: Source) -> ExitCode:
    """Serves what the settings say, until a signal or a failure ends it.

    Args:
        source: reads the settings; it is called again by each worker that starts.

    Raises:
        StartError: the server can't start; its `exit_code` is for the process.
    """
    settings = source()
    configs = models_of(settings)
    # Told here at once, and not by every worker once it has imported TensorFlow.
    devices.plan(settings.devices, settings.worker_processes)
    for config in configs:
        check_versions(config)
    laid_out = placed(settings, configs)
    return server_types.serve(
        partial(predict_processor, source, settings, laid_out),
        laid_out,
        refusal=refused,
        desk=predict_desk(),
        preload=devices.preload if needs_tensorflow(configs) else None,
        control=control_processor if settings.control_port is not None else None,
        control_port=settings.control_port or 0,
        beside=partial(gateway_group, settings) if settings.rest_port is not None else None,
        on_ready=partial(print, flush=True),
    )


def models_of(settings: ServeSettings) -> tuple[ModelConfig, ...]:
    """The models to serve, at least one.

    Raises:
        ConfigError: there is none, or one can't be read.
    """
    if not settings.model:
        raise ConfigError(
            "no model to serve: give one or more as --model NAME=BASE_PATH, for example --model digits=/models/digits"
        )
    return parse_model_flags(settings.model)


def check_versions(config: ModelConfig) -> None:
    """Looks whether a model has a version to load.

    Raises:
        ModelLoadError: it has none; the message names the model and the remedy.
    """
    if config.platform != "tensorflow":
        return
    try:
        newest_version(Path(config.source))
    except ModelLoadError as error:
        raise ModelLoadError(f"model {config.name!r}: {error.message}") from error


def needs_tensorflow(configs: tuple[ModelConfig, ...]) -> bool:
    """Whether a model runs in TensorFlow; where none does, it is never imported."""
    return any(config.platform == "tensorflow" for config in configs)


def refused(method: str, reason: str) -> Any:
    """How Predict answers a request that is turned away for a limit; None: it is none of its methods."""
    return at_front.fault(method, Code.RESOURCE_EXHAUSTED, reason)


def predict_desk() -> Desk:
    """What the fronts of a batching server do for Predict by themselves."""
    return Desk(
        fault=at_front.fault,
        make_processor=front_processor,
        local=at_front.METHODS,
        timeouts=at_front.TIMEOUTS,
        lanes=at_front.LANES,
        repeatable=at_front.REPEATABLE,
        ordered=False,
    )


def front_processor(context: WorkerContext, about: dict[str, Any]) -> TProcessor:
    """The part of Predict that a front answers."""
    handler = at_front.FrontHandler(
        about, status=context.server_snapshot, counters=context.counters, server_version=__version__
    )
    return Predict.Processor(handler)


def predict_processor(
    source: Source, started_with: ServeSettings, laid_out: ServeSettings, context: WorkerContext
) -> TProcessor:
    """The Predict service with its models loaded, in the worker that calls this.

    Raises:
        StartError: a setting is wrong by now, a device is not there, or a model can't be loaded.
    """
    settings = source()
    _tell_ignored(started_with, settings)
    settings = replace(settings, **{name: getattr(laid_out, name) for name in _PLACEMENT})
    registry = _load(settings, context)
    batcher = _batcher(settings)
    handler = PredictHandler(
        registry,
        status=context.server_snapshot,
        counters=context.counters,
        max_image_pixels=settings.max_image_pixels,
        server_version=__version__,
        batcher=batcher,
    )
    if settings.warmup:
        handler.prepare()
        if batcher.merging:
            for servable in registry.servables():
                batcher.rehearse(servable)
    return PredictProcessor(handler)


def _batcher(settings: ServeSettings) -> Batcher:
    """What puts requests together: in the batching server by itself, in the others where they are told to."""
    batching = settings.server_type == "TBatchingServer"
    return Batcher(
        settings.runs_per_worker if batching else None,
        max_batch_size=settings.max_batch_size or (MAX_BATCH_SIZE if batching else 1),
        batch_timeout_ms=settings.batch_timeout_ms,
    )


def _load(settings: ServeSettings, context: WorkerContext) -> Registry:
    # A forking server has one worker, and each of its children a place of its own behind it.
    places = max(context.workers, context.index + 1)
    device = devices.plan(settings.devices, places)[context.index]
    devices.claim(device)
    context.set_device(device)
    options = SessionOptions.divided(
        device,
        context.workers * settings.slots,
        intra_op_threads=settings.intra_op_threads,
        inter_op_threads=settings.inter_op_threads,
        gpu_memory_limit_mb=settings.gpu_memory_limit_mb,
        freeze=settings.freeze,
    )
    registry = loader.load_models(models_of(settings), options)
    if settings.warmup:
        for servable in registry.servables():
            warmup.run(servable)
    return registry


def _tell_ignored(before: ServeSettings, now: ServeSettings) -> None:
    """Logs what changed but belongs to the parent, which reads its settings once."""
    changed = [one.name for one in fields(HostSettings) if getattr(before, one.name) != getattr(now, one.name)]
    if changed:
        logger.warning("changed, but only a restart of the server takes it up: %s", ", ".join(changed))


def control_processor(context: ControlContext) -> TProcessor:
    """The ModelControl service."""
    return ModelControl.Processor(ControlHandler(reload=context.reload, counters=context.counters))
