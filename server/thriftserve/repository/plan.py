"""Exactly which versions every worker is to serve.

Plan(7, models)  --to_json-->  plan.json  --from_json-->  worker: each version loaded
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
    """A model and its versions to serve, newest first. Its configuration has no policy and no labels here."""

    config: ModelConfig
    versions: tuple[VersionDir, ...]

    @classmethod
    def of(cls, config: ModelConfig, versions: tuple[VersionDir, ...]) -> PlannedModel:
        """A model as workers need to know it."""
        return cls(replace(config, policy=NEWEST, labels={}), versions)


@dataclass(frozen=True)
class Plan:
    """What is to be served.

    Attributes:
        number: workers of one number serve the same.
        models: by name, in the order of the configuration.
        first: whether nothing was served before: a version that can't be loaded is then left out where
            another one of its model can.
    """

    number: int
    models: tuple[PlannedModel, ...]
    first: bool = False

    def versions(self) -> Iterator[tuple[str, VersionDir]]:
        """Each version with its model's name."""
        return ((model.config.name, one) for model in self.models for one in model.versions)

    def holds(self, name: str, version: int) -> bool:
        """Whether that version is in it."""
        return any((name, version) == (each, one.version) for each, one in self.versions())

    def without(self, left_out: Collection[tuple[str, int]]) -> Plan:
        """The same workers' plan, those versions left out; it is not the first any more."""
        models = [
            replace(
                each, versions=tuple(one for one in each.versions if (each.config.name, one.version) not in left_out)
            )
            for each in self.models
        ]
        return Plan(self.number, tuple(models))

    def warms_up(self, name: str, *, otherwise: bool) -> bool:
        """Whether a model's versions are run before the first client; `otherwise` where it does not say."""
        model = self.named(name)
        return otherwise if model is None or model.config.warmup is None else model.config.warmup

    def named(self, name: str) -> PlannedModel | None:
        """The model of that name."""
        return next((model for model in self.models if model.config.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """As what JSON can hold."""
        return {
            "number": self.number,
            "first": self.first,
            "models": [
                {
                    **config_to_json(model.config),
                    "versions": [[one.version, str(one.path)] for one in model.versions],
                }
                for model in self.models
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """From what `to_json` made."""
        return cls(content["number"], tuple(map(_model, content["models"])), content["first"])


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """A model's configuration as what JSON can hold."""
    return asdict(config) | {"policy": policy_to_json(config.policy)}


def config_from_json(content: Mapping[str, Any]) -> ModelConfig:
    """From what `config_to_json` made."""
    return ModelConfig(
        content["name"],
        content["platform"],
        content["source"],
        policy_from_json(content["policy"]),
        content["labels"],
        batching=_settings(BatchingSettings, content["batching"]),
        session=_settings(RunSettings, content["session"]),
        image=_settings(ImageSettings, content["image"]),
        devices=content["devices"],
        warmup=content["warmup"],
    )


def _model(content: Mapping[str, Any]) -> PlannedModel:
    versions = tuple(VersionDir(version, Path(path)) for version, path in content["versions"])
    return PlannedModel(config_from_json(content), versions)


def _settings(cls: type[S], content: Mapping[str, Any] | None) -> S | None:
    if content is None:
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return cls(**values)
