"""A worker's options as TensorFlow takes them, and the check that its device is really there.

    SessionOptions  -->  ConfigProto  -->  tf.compat.v1.Session

All sessions of a process get the same options: TensorFlow makes its devices and threads once, for the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thriftserve.errors import DeviceError
from thriftserve.models.devices import CPU, VISIBLE, SessionOptions

# Finds variables that an export forgot to restore.


def unrestored_variables(session: Any, tensors: Iterable[str]) -> list[str]:
    """Names of the variables that these tensors of a session's graph need and that have no value."""
    import tensorflow as tf

    graph = session.graph
    handles = _variables(graph.get_tensor_by_name(name).op for name in tensors)
    with graph.as_default():
        checks = [tf.raw_ops.VarIsInitializedOp(resource=handle.outputs[0]) for handle in handles]
    return [handle.name for handle, there in zip(handles, session.run(checks), strict=True) if not there]


def _variables(roots: Iterable[Any]) -> list[Any]:
    """The variables' operations among all that the roots depend on."""
    seen: set[str] = set()
    waiting, found = list(roots), []
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if operation.type == "VarHandleOp":
            found.append(operation)
        waiting.extend(operation.control_inputs)
        waiting.extend(tensor.op for tensor in operation.inputs)
    return found


def config_proto(options: SessionOptions) -> Any:
    """The `tf.compat.v1.ConfigProto` of a worker's sessions."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads or 0,
        # Exports often name a device that their training had; what can't run there may run elsewhere.
        allow_soft_placement=True,
    )
    # Copies of each graph that nobody reads; with the constants of a frozen model in them they are large.
    config.experimental.disable_output_partition_graphs = True
    if options.device == CPU:
        config.device_count["GPU"] = 0
    elif options.gpu_memory_limit_mb is None:
        config.gpu_options.allow_growth = True
    else:
        limit = config.gpu_options.experimental.virtual_devices.add()
        limit.memory_limit_mb.append(options.gpu_memory_limit_mb)
    return config


def verify_device(options: SessionOptions) -> None:
    """Checks that TensorFlow itself sees the device that this process claimed.

    Raises:
        DeviceError: it does not; the message says what it sees.
    """
    if options.device == CPU:
        return
    import os

    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return
    raise DeviceError(
        f"TensorFlow {tf.__version__} sees no GPU where {options.device} was claimed "
        f"({VISIBLE}={os.environ.get(VISIBLE, '')}): its build {_built_with(tf)}; use devices=cpu, "
        "or install tensorflow[and-cuda] and a driver that suits it"
    )


def _built_with(tf: Any) -> str:
    return "has CUDA support" if tf.test.is_built_with_cuda() else "has no CUDA support"
