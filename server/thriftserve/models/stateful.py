"""Finds what a graph keeps between runs, besides variables that it only reads.

    GraphDef  -->  its operations and those of the functions that they call  -->  names of the stateful ones

Tables, random numbers, assignments, Python functions: a copy of such a graph need not answer as the original does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: TensorFlow calls these stateful, yet reading variables, calling, branching, checking leave nothing behind.
_HARMLESS = frozenset({
    "Assert", "Case", "DisableCopyOnRead", "For", "If", "ReadVariableOp", "ResourceGather", "ResourceGatherNd",
    "StatefulPartitionedCall", "VarHandleOp", "VarIsInitializedOp", "Variable", "VariableV2", "While",
})  # fmt: skip


def state_used(definition: Any) -> list[str]:
    """Types of the operations that keep state, or write to what does, in order of the alphabet; unknown ones too."""
    return sorted({node.op for node in _reached(definition) if _keeps_state(node.op)})


def _reached(definition: Any) -> Iterator[Any]:
    """Every node of the graph, and of each function that one of these calls."""
    functions = {one.signature.name: one for one in definition.library.function}
    waiting = list(definition.node)
    while waiting:
        node = waiting.pop()
        yield node
        for name in (node.op, *_called(node)):
            function = functions.pop(name, None)
            if function is not None:
                waiting.extend(function.node_def)


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        yield from (one.name for one in value.list.func)


def _keeps_state(operation: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(operation)
    if definition is None:  # a function called by its own name: its body is looked at
        return False
    writes = any(argument.is_ref for argument in definition.input_arg) and operation != "Identity"
    return operation not in _HARMLESS and (definition.is_stateful or writes)
