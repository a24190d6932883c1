"""The devices that models ask for in the configuration, and those that workers have.

    --devices auto, models: "cpu", "gpu:1", nothing said  --chosen-->  --devices gpu:1; the first model on the CPU there

Every worker serves every model and has one device: so models ask for the same GPUs, or for the CPU, which every
worker has beside its own device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from thriftserve.errors import ConfigError
from thriftserve.models.devices import CPU
from thriftserve.models.repository import ModelConfig
from thriftserve.settings import ServeSettings

AUTO = "auto"


def chosen(settings: ServeSettings, configs: Iterable[ModelConfig]) -> ServeSettings:
    """The settings with the devices that the models ask for, where nobody has said any for the server.

    Raises:
        ConfigError: models ask for what a server can't give both; names them and says what to write.
    """
    configs = list(configs)
    devices = settings.devices
    if devices == AUTO:
        devices = next((one.devices for one in configs if _gpus(one.devices)), None) or (
            CPU if configs and all(one.devices == CPU for one in configs) else AUTO
        )
    for config in configs:
        wrong = _fault(config, devices, given=settings.devices != AUTO)
        if wrong:
            raise ConfigError(f"model {config.name!r}: devices = {config.devices!r}: {wrong}")
    return replace(settings, devices=devices)


def _fault(config: ModelConfig, devices: str, *, given: bool) -> str | None:
    if _gpus(config.devices) and _gpus(config.devices) != _gpus(devices):
        why = f"devices is {devices!r} for the server" if given else f"another model has {devices!r}"
        return f"{why}, and every worker serves every model: leave one out, or serve the model by a server of its own"
    if config.devices == CPU and config.platform == "python" and devices != CPU:
        return (
            "a Python class sees the device of its worker: have it choose the CPU itself, or serve it by a server of "
            "its own with devices = 'cpu'"
        )
    return None


def _gpus(devices: str | None) -> frozenset[str]:
    """The GPUs that are named."""
    return frozenset(name.strip() for name in (devices or "").split(",") if name.strip().startswith("gpu:"))
