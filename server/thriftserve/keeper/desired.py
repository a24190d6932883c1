"""What should be served, of what there is.

wanted versions, those that fail, what is served now  --desired-->  PlannedModels
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from thriftserve.models.repository import ModelConfig, VersionDir
from thriftserve.models.state import Plan, PlannedModel
from thriftserve.models.version_policy import Latest


def desired(
    configs: Iterable[ModelConfig],
    wanted: Mapping[str, tuple[VersionDir, ...]],
    failing: Collection[tuple[str, VersionDir]],
    now: Plan | None,
) -> tuple[PlannedModel, ...]:
    """The models and versions to serve; a model of which there is nothing to serve is left out.

    A version that fails to load is left out. Where the policy asks for the newest ones, those that are served now
    stand in for it: the old version serves on.

    Args:
        configs: what the configuration asks for.
        wanted: by model, newest first.
        failing: models and versions that are not to be tried now.
        now: what is served.
    """
    planned = [_desired(config, wanted.get(config.name, ()), failing, now) for config in configs]
    return tuple(each for each in planned if each.versions)


def _desired(
    config: ModelConfig,
    wanted: tuple[VersionDir, ...],
    failing: Collection[tuple[str, VersionDir]],
    now: Plan | None,
) -> PlannedModel:
    sound = [one for one in wanted if (config.name, one) not in failing]
    served = now.named(config.name) if now is not None else None
    if len(sound) < len(wanted) and served is not None and (isinstance(config.policy, Latest) or not sound):
        others = [one for one in served.versions if one not in sound and (config.name, one) not in failing]
        sound += others[: len(wanted) - len(sound)]
    return PlannedModel.of(config, tuple(sorted(sound, key=lambda one: -one.version)))
