"""Finds variables that an export forgot to restore.

    (session, its signatures' tensors)  -->  the variables they read  -->  names of those without a value

Keras 3's models, written by `tf.saved_model.save` instead of `model.export`, restore copies of their
variables and read the originals. Loading such an export works; each of its calls would fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


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
