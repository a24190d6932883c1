"""Which worker computes on which device, settled before TensorFlow starts.

    "gpu:0,gpu:1", 4 workers  --assign_devices-->  gpu:0 gpu:1 gpu:0 gpu:1
    worker: claim("gpu:1")  -->  CUDA_VISIBLE_DEVICES of this process  -->  TensorFlow sees that one only

`assign_devices` runs in the supervisor and never touches TensorFlow; `claim` runs in each worker, before its first
operation. Numbers count the devices that this process may use: if CUDA_VISIBLE_DEVICES is set, gpu:0 is its first
entry.

    >>> assign_devices("gpu:0,gpu:1", workers=3, gpus=2)
    ('gpu:0', 'gpu:1', 'gpu:0')
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path

from thriftserve.cores import usable_cores
from thriftserve.errors import ConfigError, DeviceError
from thriftserve.repository.versions import ModelConfig
from thriftserve.settings import ServeSettings

AUTO, CPU = "auto", "cpu"
VISIBLE = "CUDA_VISIBLE_DEVICES"
PROC_GPUS = Path("/proc/driver/nvidia/gpus")
DEV = Path("/dev")


@dataclass(frozen=True)
class SessionOptions:
    """Where and with how many threads a worker's sessions run."""

    device: str = CPU
    #: Threads inside one operation.
    intra_op_threads: int = 1
    #: Threads that run operations side by side; None: each call runs its own in the thread that calls.
    inter_op_threads: int | None = None
    #: GPU memory of this process in MiB; None: it grows as needed.
    gpu_memory_limit_mb: int | None = None
    #: Turn variables into constants at load if that changes no answer.
    freeze: bool = True

    @classmethod
    def divided(
        cls,
        device: str,
        workers: int,
        *,
        intra_op_threads: int | None = None,
        inter_op_threads: int | None = None,
        gpu_memory_limit_mb: int | None = None,
        freeze: bool = True,
        cores: int | None = None,
    ) -> SessionOptions:
        """Return the options of one of `workers` processes that share `cores`; None: all that we may use."""
        share = max(1, (cores or usable_cores()) // max(1, workers))
        return cls(device, intra_op_threads or share, inter_op_threads, gpu_memory_limit_mb, freeze)


def choose_devices(settings: ServeSettings, configs: Iterable[ModelConfig]) -> ServeSettings:
    """Return the settings with the devices that the models ask for, unless the settings name some.

    Raises:
        ConfigError: Models ask for what one server can't give; the message names them and the remedy.
    """
    configs = list(configs)
    devices = settings.devices
    if devices == AUTO:
        devices = next((config.devices for config in configs if _gpus(config.devices)), None) or (
            CPU if configs and all(config.devices == CPU for config in configs) else AUTO
        )
    for config in configs:
        fault = _find_fault(config, devices, given=settings.devices != AUTO)
        if fault:
            raise ConfigError(f"model {config.name!r}: devices = {config.devices!r}: {fault}")
    return replace(settings, devices=devices)


def assign_devices(devices: str, workers: int, gpus: int | None = None) -> tuple[str, ...]:
    """Return the device of each worker, round-robin.

    Args:
        devices: "cpu", "auto" (every GPU, else cpu) or a list like "gpu:0,gpu:1".
        workers: number of worker processes, 1 or more.
        gpus: number of GPUs; None: count them.

    Raises:
        DeviceError: There is no such device, or `devices` can't be read.
    """
    names = _resolve(devices, len(visible_gpus()) if gpus is None else gpus)
    return tuple(names[index % len(names)] for index in range(workers))


def claim(device: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Give this process its device and no other. Call it once, before TensorFlow's first operation.

    Raises:
        DeviceError: There is no such device.
    """
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if device == CPU:
        environment[VISIBLE] = "-1"
        return
    gpus = visible_gpus(environment)
    _check(device, device, len(gpus))
    environment[VISIBLE] = gpus[int(device.partition(":")[2])]
    # Python models share the process: without this, their first operation takes all of the GPU's memory.
    environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return CUDA's names of the GPUs that this process may use, without TensorFlow.

    They are the entries of CUDA_VISIBLE_DEVICES if it is set (up to the first negative one, as CUDA reads it), else
    "0", "1", … for each device that the driver shows.
    """
    entries = environment.get(VISIBLE)
    if entries is None:
        return tuple(str(number) for number in range(_count_gpus()))
    names: list[str] = []
    for name in entries.split(","):
        if not name.strip() or name.strip().startswith("-"):
            break
        names.append(name.strip())
    return tuple(names)


def _count_gpus() -> int:
    if PROC_GPUS.is_dir():
        return len(list(PROC_GPUS.iterdir()))
    return sum(1 for node in DEV.glob("nvidia*") if re.fullmatch(r"nvidia[0-9]+", node.name))


def _find_fault(config: ModelConfig, devices: str, *, given: bool) -> str | None:
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
    """Return the GPUs that are named."""
    return frozenset(name.strip() for name in (devices or "").split(",") if name.strip().startswith("gpu:"))


def _resolve(devices: str, gpus: int) -> list[str]:
    if devices == AUTO:
        return [f"gpu:{number}" for number in range(gpus)] or [CPU]
    if devices == CPU:
        return [CPU]
    names = [name.strip() for name in devices.split(",")]
    for name in names:
        _check(name, devices, gpus)
    return names


def _check(name: str, devices: str, gpus: int) -> None:
    match = re.fullmatch(r"gpu:([0-9]+)", name)
    if match is None:
        raise DeviceError(f"devices is {devices!r}: {name!r} is no device; write cpu, auto or a list like gpu:0,gpu:1")
    if int(match[1]) >= gpus:
        raise DeviceError(f"devices is {devices!r}: there is no {name} here; {_describe(gpus)}")


def _describe(gpus: int) -> str:
    if gpus == 0:
        return f"no GPU was found ({VISIBLE} is {os.environ.get(VISIBLE, 'not set')}): only cpu can be used"
    return "there is " + ", ".join([CPU, *(f"gpu:{number}" for number in range(gpus))])
