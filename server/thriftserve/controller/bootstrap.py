"""The first plan: written before any worker starts, so that what is wrong is reported at once.

ModelConfigs  --mirror what is behind URLs, poll once-->  versions to serve  -->  plan.json, state.json, Watcher
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from thriftserve.controller.configuration import file_stamp, save_configuration
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.controller.sources import MirrorClient, local_base_path, mirror_cache
from thriftserve.errors import ConfigError, ModelLoadError
from thriftserve.remote.mirror import has_any
from thriftserve.repository.labels import Labels
from thriftserve.repository.plan import Plan, PlannedModel
from thriftserve.repository.state_store import StateDir, StateWriter
from thriftserve.repository.version_states import VersionStatus
from thriftserve.repository.versions import ModelConfig
from thriftserve.repository.watcher import Watcher
from thriftserve.settings import ServeSettings
from thriftserve_idl.ttypes import ModelState

_POLL_S = 1.0
#: A server whose URLs do not answer for so long starts with the versions that it mirrored in an earlier run.
_MIRROR_TIMEOUT_S = 20.0
#: Without a version from an earlier run, the start fails after so many syncs that landed none.
_MAX_SYNCS = 3

log = logging.getLogger(__name__)


def write_first_plan(
    settings: ServeSettings, configured: Sequence[ModelConfig], state: StateDir
) -> tuple[Plan, Watcher]:
    """Write the plan that the first workers load: of the configuration, and of operators' overrides of an earlier run.

    It waits for versions behind URLs.

    Returns:
        The plan, and the watcher that has polled the base paths once.

    Raises:
        ModelLoadError: a model has no version that could be loaded; the message names it and the remedy.
        ConfigError: the state directory can't be written.
    """
    state.prepare()
    save_configuration(state, configured, file_stamp(settings))
    overrides = OperatorOverrides(state, configured)
    overrides.drop_missing()
    configs = overrides.configs(configured)
    cache = mirror_cache(settings, state)
    mirror_problems = _mirror_all([config for config in configs if config.remote], cache)
    watcher = Watcher(configs, partial(local_base_path, cache))
    polled = watcher.poll(settled=True).models
    for config in configs:
        if config in configured and not polled[config.name].wanted:
            problems = mirror_problems.get(config.source) or polled[config.name].problems
            raise ModelLoadError(f"model {config.name!r}: {'; '.join(problems)}")
    wanted = ((config, overrides.versions(config.name, polled[config.name].wanted)) for config in configs)
    plan = Plan(1, tuple(PlannedModel.of(config, versions) for config, versions in wanted if versions), first=True)
    state.write("plan", plan.to_json())
    labels = Labels(state.labels_file).configure({config.name: config.labels for config in configs})
    # A worker answers only once it has loaded all of them: whoever can read this state finds it true.
    states = {
        model.config.name: [VersionStatus(version.version, ModelState.AVAILABLE) for version in model.versions]
        for model in plan.models
    }
    StateWriter(state).write(states, labels)
    return plan, watcher


def _mirror_all(configs: Sequence[ModelConfig], cache: Path) -> dict[str, tuple[str, ...]]:
    """Wait until the versions behind URLs have landed or will not; return the problems by URL."""
    if not configs:
        return {}
    began = time.monotonic()
    mirrors = MirrorClient(cache)
    mirrors.configure(configs, _POLL_S, (), began)
    log.info("waiting for versions from %s", ", ".join(sorted({config.source for config in configs})))
    try:
        while not all(_is_settled(mirrors, config, cache, time.monotonic() - began) for config in configs):
            if not mirrors.alive:
                raise ConfigError(f"mirror_dir: versions behind URLs can't be copied to {cache}: see the log")
            mirrors.wait_for_report(_POLL_S)
        return {config.source: mirrors.report(config.source).problems for config in configs}
    finally:
        mirrors.close()


def _is_settled(mirrors: MirrorClient, config: ModelConfig, cache: Path, waited_s: float) -> bool:
    report = mirrors.report(config.source)
    if has_any(local_base_path(cache, config), config.policy):
        return report.settled or waited_s > _MIRROR_TIMEOUT_S
    return report.settled and report.syncs >= _MAX_SYNCS
