"""A plan: exactly which versions every worker is to serve.

controller: Plan(7, models)  --to_json-->  plan.json  --from_json-->  worker: loads each version
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import BatchingSettings, RunSettings
from thriftserve.repository.versions import NEWEST, ModelConfig, VersionDir, policy_from_json, policy_to_json

S = TypeVar("S", BatchingSettings, RunSettings, ImageSettings)


@dataclass(frozen=True)
class PlannedModel:
    """A model and the versions to serve, newest first. Its configuration has neither policy nor labels here."""

    config: ModelConfig
    versions: tuple[VersionDir, ...]

    @classmethod
    def of(cls, config: ModelConfig, versions: tuple[VersionDir, ...]) -> PlannedModel:
        """Return a model as workers need to know it."""
        return cls(replace(config, policy=NEWEST, labels={}), versions)


@dataclass(frozen=True)
class Plan:
    """The models and versions to serve.

    Attributes:
        number: workers that have loaded plans of one number serve the same.
        models: in the order of the configuration.
        first: whether nothing was served before: a version that can't be loaded is then left out if another
            version of its model can be loaded.
    """

    number: int
    models: tuple[PlannedModel, ...]
    first: bool = False

    def versions(self) -> Iterator[tuple[str, VersionDir]]:
        """Yield each version with the name of its model."""
        return ((model.config.name, version) for model in self.models for version in model.versions)

    def version_keys(self) -> set[tuple[str, int]]:
        """Return the name of the model and the number of each version."""
        return {(name, version.version) for name, version in self.versions()}

    def without(self, left_out: Collection[tuple[str, int]]) -> Plan:
        """Return the plan of the same number without some versions; it is not the first plan any more."""
        models = [
            replace(
                model,
                versions=tuple(
                    version for version in model.versions if (model.config.name, version.version) not in left_out
                ),
            )
            for model in self.models
        ]
        return Plan(self.number, tuple(models))

    def warms_up(self, name: str, *, otherwise: bool) -> bool:
        """Return whether a model is warmed up before the first client; `otherwise` if its configuration doesn't say."""
        model = self.named(name)
        return otherwise if model is None or model.config.warmup is None else model.config.warmup

    def named(self, name: str) -> PlannedModel | None:
        """Return the model of that name."""
        return next((model for model in self.models if model.config.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return {
            "number": self.number,
            "first": self.first,
            "models": [
                {
                    **config_to_json(model.config),
                    "versions": [[version.version, str(version.path)] for version in model.versions],
                }
                for model in self.models
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_json` was called on."""
        return cls(content["number"], tuple(map(_model_from_json, content["models"])), content["first"])


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """Return a model's configuration as JSON can hold it."""
    return asdict(config) | {"policy": policy_to_json(config.policy)}


def config_from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that `config_to_json` was called with."""
    return ModelConfig(
        content["name"],
        content["platform"],
        content["source"],
        policy_from_json(content["policy"]),
        content["labels"],
        batching=_settings_from_json(BatchingSettings, content["batching"]),
        session=_settings_from_json(RunSettings, content["session"]),
        image=_settings_from_json(ImageSettings, content["image"]),
        devices=content["devices"],
        warmup=content["warmup"],
    )


def _model_from_json(content: Mapping[str, Any]) -> PlannedModel:
    versions = tuple(VersionDir(version, Path(path)) for version, path in content["versions"])
    return PlannedModel(config_from_json(content), versions)


def _settings_from_json(cls: type[S], content: Mapping[str, Any] | None) -> S | None:
    if content is None:
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return cls(**values)
