"""The pieces put together: settings in, a serving process tree out.

::

    parent:  settings  -->  models, devices checked, the first plan  -->  server_types.serve(factory, …)
    keeper:  settings, base paths, operators  -->  the next plan  -->  workers are replaced
    worker:  factory(context)  -->  device claimed  -->  the plan's versions loaded, warmed up  -->  processor

The settings are read anew whenever a worker starts: after SIGHUP new workers see a changed file, and where they
can't start with it, the old workers stay.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from thrift.Thrift import TProcessor

from thriftserve import __version__, servers
from thriftserve.batching import MAX_BATCH_SIZE, Batcher, on_word
from thriftserve.controller import (
    ModelController,
    ModelOperations,
    control_port_settings,
    first_plan,
    models_of,
    token_of,
)
from thriftserve.errors import Code, ExitCode
from thriftserve.gateway.sidecar import group as gateway_group
from thriftserve.models import devices, loader, process_layout, warmup
from thriftserve.models import devices as device_choice
from thriftserve.models.devices import SessionOptions
from thriftserve.models.loader import in_background
from thriftserve.models.registry import SharedStateRegistry
from thriftserve.models.tensorflow.preload import preload
from thriftserve.repository.plan import Plan
from thriftserve.repository.state_store import LoadReport, StateDir, StateReader
from thriftserve.repository.unmerged import UnmergedModels
from thriftserve.repository.versions import ModelConfig
from thriftserve.repository.watcher import Watcher
from thriftserve.servers import ControlContext, FrontPolicy, WorkerContext
from thriftserve.service import ControlHandler, PredictHandler, PredictProcessor, front
from thriftserve.settings import HostSettings, ServeSettings
from thriftserve_idl import ModelControl, Predict

logger = logging.getLogger(__name__)

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
    settled = device_choice.chosen(settings, configs)
    # Told here at once, and not by every worker once it has imported TensorFlow.
    devices.plan(settled.devices, settled.worker_processes)
    door = control_port_settings(settings)
    with _state_dir(settings) as place:
        state = StateDir(Path(place).absolute())
        plan, watcher = first_plan(settings, configs, state)
        laid_out = process_layout.placed(settled, plan.models)
        return servers.serve(
            Predictor(source, laid_out, state),
            laid_out,
            refusal=refused,
            desk=predict_front_policy(),
            preload=preload if needs_tensorflow(one.config for one in plan.models) else None,
            control=partial(ControllerService, source, settings, laid_out, state, watcher),
            control_door=door,
            frees_first=settings.swap_policy == "resource",
            beside=partial(gateway_group, settings) if settings.rest_port is not None else None,
            on_ready=partial(print, flush=True),
        )


def _state_dir(settings: ServeSettings) -> tempfile.TemporaryDirectory[str] | nullcontext[str]:
    if settings.state_dir is not None:
        return nullcontext(str(Path(settings.state_dir).expanduser()))
    return tempfile.TemporaryDirectory(prefix="thriftserve-")


def needs_tensorflow(configs: Iterable[ModelConfig]) -> bool:
    """Whether a model runs in TensorFlow; where none does, it is never imported."""
    return any(config.platform == "tensorflow" for config in configs)


def refused(method: str, reason: str) -> Any:
    """How Predict answers a request that is turned away for a limit; None: it is none of its methods."""
    return front.fault(method, Code.RESOURCE_EXHAUSTED, reason)


def predict_front_policy() -> FrontPolicy:
    """What the fronts of a batching server do for Predict by themselves."""
    return FrontPolicy(
        fault=front.fault,
        make_processor=front_processor,
        local=front.METHODS,
        timeouts=front.TIMEOUTS,
        lanes=front.LANES,
        repeatable=front.REPEATABLE,
        ordered=False,
    )


def front_processor(context: WorkerContext, about: dict[str, Any]) -> TProcessor:
    """The part of Predict that a front answers."""
    handler = front.FrontHandler(
        about, status=context.server_snapshot, counters=context.counters, server_version=__version__
    )
    return Predict.Processor(handler)


class Predictor:
    """Makes the Predict service with its models loaded, in the worker that calls it.

    Args:
        source: reads the settings.
        laid_out: the settings that the server started with.
        state: where the plan is.
    """

    def __init__(self, source: Source, laid_out: ServeSettings, state: StateDir) -> None:
        self._source = source
        self._laid_out = laid_out
        self._state = state
        self._plan: Plan | None = None

    def begin(self) -> None:
        """A worker process begins: what it and its children serve is decided now, and by nobody later."""
        self._plan = Plan.from_json(self._state.read("plan"))

    def __call__(self, context: WorkerContext) -> TProcessor:
        """The service.

        Raises:
            StartError: a setting is wrong by now, a device is not there, or a model can't be loaded.
        """
        assert self._plan is not None, "begin was called"
        settings = device_choice.chosen(self._source(), (one.config for one in self._plan.models))
        settings = replace(settings, **{name: getattr(self._laid_out, name) for name in process_layout.KEYS})
        with in_background(not self._plan.first):
            processor = self._made(settings, self._plan, context)
        if context.index < context.workers:  # not in a child of a forking server's worker
            context.counters.set_plan(self._plan.number)
        return processor

    def _made(self, settings: ServeSettings, plan: Plan, context: WorkerContext) -> TProcessor:
        options = _session_options(settings, context)
        attempt = LoadReport(self._state) if context.index < context.workers else None
        servables = loader.load_plan(plan, options, attempt)
        batcher = _batcher(settings, UnmergedModels(self._state))
        handler = PredictHandler(
            SharedStateRegistry(servables, StateReader(self._state, lambda: context.board.state_revision)),
            status=context.server_snapshot,
            counters=context.counters,
            max_image_pixels=settings.max_image_pixels,
            server_version=__version__,
            batcher=batcher,
        )
        warmed = [one for one in servables if plan.warms_up(one.name, otherwise=settings.warmup)]
        if warmed:
            handler.prepare()
        paths = {(name, one.version): one.path for name, one in plan.versions()}
        for servable in servables:
            path = paths[servable.name, servable.version]
            # A recorded request that must run and can't, or a run that kills the worker, is a failed load.
            with attempt.loading(servable.name, servable.version) if attempt else nullcontext():
                if servable in warmed:
                    warmup.run(servable, path, strict=settings.strict_warmup)
                if servable in warmed or not on_word(servable):  # then there is nothing to show
                    batcher.examine(servable, path)
        loader.give_memory_back()
        if attempt is not None:
            attempt.done()
        return PredictProcessor(handler)


def _batcher(settings: ServeSettings, stops: UnmergedModels) -> Batcher:
    """What puts requests together; in the other server types each request has a run of its own."""
    batching = settings.server_type == "TBatchingServer"
    return Batcher(
        settings.runs_per_worker if batching else None,
        max_batch_size=settings.max_batch_size or MAX_BATCH_SIZE if batching else 1,
        batch_timeout_ms=settings.batch_timeout_ms,
        stops=stops,
    )


def _session_options(settings: ServeSettings, context: WorkerContext) -> SessionOptions:
    """What the sessions of this worker run on, a device of its own where there are several: claimed for it here."""
    # A forking server has one worker, and each of its children a place of its own behind it.
    places = max(context.workers, context.index + 1)
    device = devices.plan(settings.devices, places)[context.index]
    devices.claim(device)
    context.set_device(device)
    return SessionOptions.divided(
        device,
        context.workers * settings.slots,
        intra_op_threads=settings.intra_op_threads,
        inter_op_threads=settings.inter_op_threads,
        gpu_memory_limit_mb=settings.gpu_memory_limit_mb,
        freeze=settings.freeze,
    )


class ControllerService:
    """The process that looks after the models, and the ModelControl service."""

    def __init__(
        self,
        source: Source,
        settings: ServeSettings,
        laid_out: ServeSettings,
        state: StateDir,
        watcher: Watcher,
        context: ControlContext,
    ) -> None:
        told = partial(_tell_ignored, settings)
        self._keeper = ModelController(source, settings, state, watcher, context, laid_out, told)
        handler = ControlHandler(ModelOperations(self._keeper), counters=context.counters, token=token_of(settings))
        self.processor = ModelControl.Processor(handler)

    def run(self) -> None:
        """Looks after the models."""
        self._keeper.run()

    def stop(self) -> None:
        """Ends that."""
        self._keeper.stop()

    def ask_reload(self) -> None:
        """SIGHUP came."""
        self._keeper.ask_reload()


def _tell_ignored(before: ServeSettings, now: ServeSettings) -> None:
    """Logs what changed but belongs to the parent, which reads its settings once."""
    changed = [one.name for one in fields(HostSettings) if getattr(before, one.name) != getattr(now, one.name)]
    if changed:
        logger.warning("changed, but only a restart of the server takes it up: %s", ", ".join(changed))
