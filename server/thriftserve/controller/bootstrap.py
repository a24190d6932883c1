"""The first plan: made before any worker starts, so that what is wrong is told at once.

ModelConfigs  --what is behind URLs comes, look once-->  every version wanted  -->  plan.json, state.json, Watcher
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from thriftserve.controller.configuration import file_stamp, keep
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.controller.sources import MirrorClient, base_path_of, cache_of
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
#: What came in an earlier run is served where the URL has told nothing for so long.
_PATIENCE_S = 20.0
#: Where nothing came earlier, so many looks that go wrong are enough.
_MOST_LOOKS = 3

log = logging.getLogger(__name__)


def first_plan(settings: ServeSettings, configured: Sequence[ModelConfig], state: StateDir) -> tuple[Plan, Watcher]:
    """Writes the plan that the first workers load: of the configuration, and of what operators asked for in an
    earlier run. Versions behind URLs are waited for.

    Raises:
        ModelLoadError: a model has no version that could be loaded; the message names it and the remedy.
        ConfigError: the state directory can't be written.
    """
    state.prepare()
    keep(state, configured, file_stamp(settings))
    wishes = OperatorOverrides(state, configured)
    wishes.forget_missing()
    configs = wishes.configs(configured)
    cache = cache_of(settings, state)
    behind_urls = _bring([config for config in configs if config.remote], cache)
    watcher = Watcher(configs, partial(base_path_of, cache))
    found = watcher.poll(settled=True).models
    for config in configs:
        if config in configured and not found[config.name].wanted:
            problems = behind_urls.get(config.source) or found[config.name].problems
            raise ModelLoadError(f"model {config.name!r}: {'; '.join(problems)}")
    wanted = ((config, wishes.versions(config.name, found[config.name].wanted)) for config in configs)
    plan = Plan(1, tuple(PlannedModel.of(config, versions) for config, versions in wanted if versions), first=True)
    state.write("plan", plan.to_json())
    labels = Labels(state.labels_file).configure({config.name: config.labels for config in configs})
    # A worker answers once it has loaded all of it: whoever can read this state finds it true.
    states = {
        model.config.name: [VersionStatus(one.version, ModelState.AVAILABLE) for one in model.versions]
        for model in plan.models
    }
    StateWriter(state).write(states, labels)
    return plan, watcher


def _bring(configs: Sequence[ModelConfig], cache: Path) -> dict[str, tuple[str, ...]]:
    """Waits until what is behind URLs has come, or will not; the problems of each URL."""
    if not configs:
        return {}
    began = time.monotonic()
    mirrors = MirrorClient(cache)
    mirrors.want(configs, _POLL_S, (), began)
    log.info("versions are awaited from %s", ", ".join(sorted({config.source for config in configs})))
    try:
        while not all(_enough(mirrors, config, cache, time.monotonic() - began) for config in configs):
            if not mirrors.alive:
                raise ConfigError(f"mirror_dir: versions behind URLs can't be brought to {cache}: see the log")
            mirrors.wait(_POLL_S)
        return {config.source: mirrors.told(config.source).problems for config in configs}
    finally:
        mirrors.close()


def _enough(mirrors: MirrorClient, config: ModelConfig, cache: Path, waited_s: float) -> bool:
    heard = mirrors.told(config.source)
    if has_any(base_path_of(cache, config), config.policy):
        return heard.settled or waited_s > _PATIENCE_S
    return heard.settled and heard.looks >= _MOST_LOOKS
