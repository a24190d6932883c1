"""The first plan: made before any worker starts, so that what is wrong is told at once.

ModelConfigs  --look once-->  every version wanted  -->  plan.json, state.json, Watcher
"""

from __future__ import annotations

from collections.abc import Sequence

from thriftserve.errors import ModelLoadError
from thriftserve.models.labels import Labels
from thriftserve.models.repository import ModelConfig
from thriftserve.models.state import Plan, PlannedModel, StateDir, told
from thriftserve.models.states import VersionStatus
from thriftserve.models.watcher import Watcher
from thriftserve_idl.ttypes import ModelState


def first_plan(configs: Sequence[ModelConfig], state: StateDir) -> Watcher:
    """Writes the plan that the first workers load.

    Raises:
        ModelLoadError: a model has no version that could be loaded; the message names it and the remedy.
        ConfigError: the state directory can't be written.
    """
    state.prepare()
    watcher = Watcher(configs)
    found = watcher.poll(settled=True).models
    for config in configs:
        if not found[config.name].wanted:
            raise ModelLoadError(f"model {config.name!r}: {'; '.join(found[config.name].problems)}")
    plan = Plan(1, tuple(PlannedModel.of(config, found[config.name].wanted) for config in configs), first=True)
    state.write("plan", plan.to_json())
    labels = Labels(state.labels_file).configure({config.name: config.labels for config in configs})
    # A worker answers once it has loaded all of it: whoever can read this state finds it true.
    states = {
        model.config.name: [VersionStatus(one.version, ModelState.AVAILABLE) for one in model.versions]
        for model in plan.models
    }
    state.write(told.FILE, told.written(states, labels))
    return watcher
