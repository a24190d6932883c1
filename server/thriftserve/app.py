"""The object graph of `thriftserve serve`: from settings to a process tree that serves.

::

    supervisor:  settings  -->  models and devices checked, the first plan  -->  servers.serve(Service, …)
    controller:  settings, base paths, operators  -->  the next plan  -->  the workers are replaced
    worker:      WorkerContext  -->  device claimed  -->  the plan's versions loaded, warmed up  -->  processor

Every worker reads the settings again when it starts. So after SIGHUP new workers see a changed file. If they can't
start with it, the old workers stay.
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
from thriftserve import log as log_lines
from thriftserve.batching import MAX_BATCH_SIZE, Batcher, declares_batching
from thriftserve.controller import (
    ModelController,
    ModelOperations,
    control_port_settings,
    control_token,
    read_models,
    write_first_plan,
)
from thriftserve.errors import Code, ExitCode
from thriftserve.gateway.sidecar import gateway_group
from thriftserve.models import devices, loader, process_layout, warmup
from thriftserve.models.devices import SessionOptions
from thriftserve.models.loader import in_background
from thriftserve.models.registry import SharedStateRegistry
from thriftserve.models.tensorflow.preload import preload
from thriftserve.repository.plan import Plan
from thriftserve.repository.state_store import LoadReport, StateDir, StateReader, UnmergedModels
from thriftserve.repository.versions import ModelConfig
from thriftserve.repository.watcher import Watcher
from thriftserve.servers import ControlContext, ControlPlane, FrontPolicy, Service, WorkerContext
from thriftserve.service import ControlHandler, PredictHandler, PredictProcessor, front
from thriftserve.settings import HostSettings, ServeSettings
from thriftserve_idl import ModelControl, Predict

logger = logging.getLogger(__name__)

SettingsSource = Callable[[], ServeSettings]


def serve(source: SettingsSource) -> ExitCode:
    """Serve what the settings say until a signal or a failure ends the server.

    Args:
        source: reads the settings. Each worker that starts calls it again.

    Raises:
        StartError: the server can't start; its `exit_code` is for the process.
    """
    settings = source()
    configs = read_models(settings)
    chosen = devices.choose_devices(settings, configs)
    # Fail now, not in each worker after importing TensorFlow.
    devices.assign_devices(chosen.devices, chosen.worker_processes)
    control_port = control_port_settings(settings)
    with _state_dir(settings) as directory:
        state = StateDir(Path(directory).absolute())
        plan, watcher = write_first_plan(settings, configs, state)
        placed = process_layout.lay_out(chosen, plan.models)
        factory = PredictFactory(source, placed, state)
        service = Service(
            factory.create,
            refusal=predict_refusal,
            front_policy=predict_front_policy(),
            preload=preload if needs_tensorflow(model.config for model in plan.models) else None,
            on_worker_start=factory.read_plan,
            stop_first=settings.swap_policy == "resource",
        )
        control = partial(ControllerService, source, settings, placed, state, watcher)
        return servers.serve(
            service,
            placed,
            control=ControlPlane(control, control_port),
            sidecar=partial(gateway_group, settings) if settings.rest_port is not None else None,
            on_ready=log_lines.announce,
        )


def needs_tensorflow(configs: Iterable[ModelConfig]) -> bool:
    """Return whether a model runs in TensorFlow. If none does, TensorFlow is never imported."""
    return any(config.platform == "tensorflow" for config in configs)


def predict_refusal(method: str, reason: str) -> Any:
    """Return the result of a Predict request over a limit, or None if Predict has no such method."""
    return front.error_result(method, Code.RESOURCE_EXHAUSTED, reason)


def predict_front_policy() -> FrontPolicy:
    """Return what the fronts of TBatchingServer may do for Predict without a worker."""
    return FrontPolicy(
        fault=front.error_result,
        make_processor=_front_processor,
        local=front.LOCAL_METHODS,
        timeouts=front.TIMEOUT_PATHS,
        lanes=front.MODEL_NAME_PATHS,
        repeatable=front.REPEATABLE_METHODS,
        ids=front.REQUEST_ID_PATHS,
        ordered=False,
    )


def _front_processor(context: WorkerContext, about: dict[str, Any], can_run: Callable[[], bool]) -> TProcessor:
    handler = front.FrontHandler(
        about,
        can_run=can_run,
        status=context.server_snapshot,
        counters=context.counters,
        server_version=__version__,
    )
    return Predict.Processor(handler)


def _state_dir(settings: ServeSettings) -> tempfile.TemporaryDirectory[str] | nullcontext[str]:
    if settings.state_dir is not None:
        return nullcontext(str(Path(settings.state_dir).expanduser()))
    return tempfile.TemporaryDirectory(prefix="thriftserve-")


class PredictFactory:
    """Creates the Predict service with its models loaded, in the worker process that calls it.

    Args:
        source: reads the settings.
        placed: the settings that the server started with, models and devices laid out over the processes.
        state: the directory that has the plan.
    """

    def __init__(self, source: SettingsSource, placed: ServeSettings, state: StateDir) -> None:
        self._source = source
        self._placed = placed
        self._state = state
        self._plan: Plan | None = None

    def read_plan(self) -> None:
        """Read the plan that this worker process and its children serve. Call it before `create`."""
        self._plan = Plan.from_json(self._state.read("plan"))

    def create(self, context: WorkerContext) -> TProcessor:
        """Return the service, its models loaded and warmed up.

        Raises:
            StartError: a setting has become wrong, a device does not exist, or a model can't be loaded.
        """
        assert self._plan is not None, "read_plan was not called"
        settings = devices.choose_devices(self._source(), (model.config for model in self._plan.models))
        settings = replace(settings, **{name: getattr(self._placed, name) for name in process_layout.KEYS})
        with in_background(not self._plan.first):
            processor = self._load(settings, self._plan, context)
        if not _is_forked_child(context):
            context.counters.set_plan(self._plan.number)
        return processor

    def _load(self, settings: ServeSettings, plan: Plan, context: WorkerContext) -> TProcessor:
        options = _session_options(settings, context)
        report = None if _is_forked_child(context) else LoadReport(self._state)
        servables = loader.load_plan(plan, options, report)
        batcher = _batcher(settings, UnmergedModels(self._state))
        handler = PredictHandler(
            SharedStateRegistry(servables, StateReader(self._state, lambda: context.board.state_revision)),
            status=context.server_snapshot,
            counters=context.counters,
            max_image_pixels=settings.max_image_pixels,
            server_version=__version__,
            batcher=batcher,
        )
        to_warm_up = [servable for servable in servables if plan.warms_up(servable.name, otherwise=settings.warmup)]
        if to_warm_up:
            handler.prepare()
        paths = {(name, version.version): version.path for name, version in plan.versions()}
        for servable in servables:
            path = paths[servable.name, servable.version]
            # A recorded request that must run and can't, or a run that kills the worker, is a failed load.
            with report.loading(servable.name, servable.version) if report else nullcontext():
                if servable in to_warm_up:
                    warmup.run(servable, path, strict=settings.strict_warmup)
                if servable in to_warm_up or not declares_batching(servable):  # otherwise there is nothing to prove
                    batcher.examine(servable, path)
        loader.release_free_memory()
        if report is not None:
            report.done()
        return PredictProcessor(handler)


def _is_forked_child(context: WorkerContext) -> bool:
    """Return whether this process is a child of TForkingServer's worker: its index is behind those of the workers."""
    return context.index >= context.workers


def _batcher(settings: ServeSettings, unmerged: UnmergedModels) -> Batcher:
    """Return what batches requests. With other server types than TBatchingServer each request has its own run."""
    batching = settings.server_type == "TBatchingServer"
    return Batcher(
        settings.runs_per_worker if batching else None,
        max_batch_size=settings.max_batch_size or MAX_BATCH_SIZE if batching else 1,
        batch_timeout_ms=settings.batch_timeout_ms,
        stops=unmerged,
    )


def _session_options(settings: ServeSettings, context: WorkerContext) -> SessionOptions:
    """Claim this worker's device, and return the options of its sessions."""
    # Each child of a forking server counts as a worker behind the first.
    workers = max(context.workers, context.index + 1)
    device = devices.assign_devices(settings.devices, workers)[context.index]
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
    """What the controller process runs: the model controller, and the ModelControl service for operators."""

    def __init__(
        self,
        source: SettingsSource,
        settings: ServeSettings,
        placed: ServeSettings,
        state: StateDir,
        watcher: Watcher,
        context: ControlContext,
    ) -> None:
        on_reload = partial(_warn_of_ignored, settings)
        self._controller = ModelController(source, settings, state, watcher, context, placed, on_reload)
        operations = ModelOperations(self._controller)
        handler = ControlHandler(operations, counters=context.counters, token=control_token(settings))
        self.processor = ModelControl.Processor(handler)

    def run(self) -> None:
        """Run the model controller until `stop` is called."""
        self._controller.run()

    def stop(self) -> None:
        """End `run` soon."""
        self._controller.stop()

    def ask_reload(self) -> None:
        """React to SIGHUP. Does not block."""
        self._controller.ask_reload()


def _warn_of_ignored(before: ServeSettings, now: ServeSettings) -> None:
    """Warn of changed settings of the supervisor, which reads them only once."""
    names = [field.name for field in fields(HostSettings)]
    changed = [f"{name}={getattr(now, name)}" for name in names if getattr(now, name) != getattr(before, name)]
    if changed:
        logger.warning("changed settings need a server restart: %s", ", ".join(changed))
