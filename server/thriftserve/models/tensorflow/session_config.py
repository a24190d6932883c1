"""A worker's options as TensorFlow's session needs them, and checks of what it opened.

    SessionOptions  --config_proto-->  ConfigProto  -->  tf.compat.v1.Session

All sessions of a process get the same options: TensorFlow makes its devices and threads once, for the first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from thriftserve.errors import DeviceError
from thriftserve.models.devices import CPU, VISIBLE, SessionOptions


def config_proto(options: SessionOptions) -> Any:
    """Return the `tf.compat.v1.ConfigProto` of a worker's sessions."""
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
    """Check that TensorFlow itself sees the device that this process claimed.

    Raises:
        DeviceError: It does not; the message says what it sees.
    """
    if options.device == CPU:
        return
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return
    built = "has CUDA support" if tf.test.is_built_with_cuda() else "has no CUDA support"
    raise DeviceError(
        f"TensorFlow {tf.__version__} sees no GPU where {options.device} was claimed "
        f"({VISIBLE}={os.environ.get(VISIBLE, '')}): its build {built}; use devices=cpu, "
        "or install tensorflow[and-cuda] and a driver that suits it"
    )


def unrestored_variables(session: Any, tensors: Iterable[str]) -> list[str]:
    """Return the names of the variables that these tensors of a session's graph need and that have no value."""
    import tensorflow as tf

    graph = session.graph
    operations = reached_operations(graph.get_tensor_by_name(name).op for name in tensors)
    handles = [operation for operation in operations if operation.type == "VarHandleOp"]
    with graph.as_default():
        checks = [tf.raw_ops.VarIsInitializedOp(resource=handle.outputs[0]) for handle in handles]
    return [handle.name for handle, has_value in zip(handles, session.run(checks), strict=True) if not has_value]


def reached_operations(roots: Iterable[Any]) -> list[Any]:
    """Return the operations that the roots depend on, and the roots."""
    reached: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        operation = waiting.pop()
        if operation.name not in reached:
            reached[operation.name] = operation
            waiting += [*operation.control_inputs, *(tensor.op for tensor in operation.inputs)]
    return list(reached.values())
