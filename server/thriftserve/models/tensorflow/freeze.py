"""Small variables of a loaded SavedModel turned into constants, inside the session that it was loaded into.

    session's graph  --convert-->  its signatures' part, constants for variables  --import "frozen/"-->  endpoints

TensorFlow rewrites a graph for speed before it first runs, and what it knows to be constant it can fold, fuse and
lay out beforehand: batch norms into their convolutions above all. A constant costs several times its size in
memory, though (in the graph, in its copies, once more for each set of outputs), so large variables stay what
they are: what gains little by it, a dense layer's weights or an embedding, is what is large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from thriftserve.models.tensorflow.meta_graph import Endpoint

# Finds what a graph keeps between runs, besides variables that it only reads.

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


#: A variable of more bytes stays a variable.
MOST_BYTES = 4 << 20
#: All constants of a model together, in bytes; the smallest variables come first.
MOST_BYTES_TOGETHER = 64 << 20
#: Name under which the rewritten part stands in the session's graph.
_SCOPE = "frozen"
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})


class NotFrozen(Exception):
    """The model must stay as it was loaded; the message says why."""


@dataclass(frozen=True)
class Frozen:
    """A model's signatures over constants, not yet in a session's graph."""

    #: GraphDef.
    definition: Any
    #: As they will be called, once it is in the graph.
    endpoints: Mapping[str, Endpoint]
    #: Operations of the variables that no signature reads any more.
    spared: tuple[Any, ...]
    #: How many variables the model has.
    variables: int
    #: Of all constants made.
    constant_bytes: int


def freeze(session: Any, endpoints: Mapping[str, Endpoint]) -> Frozen:
    """Reads a session's graph and variables, and makes the same with constants; the session stays as it is.

    Raises:
        NotFrozen: there is no variable to freeze, or the signatures keep state that must not be doubled.
    """
    variables = [one for one in session.graph.get_operations() if one.type in _VARIABLES]
    chosen = _choose(variables)
    if not chosen:
        raise NotFrozen("it has no variables that are small enough" if variables else "it has no variables")
    definition = _converted(session, endpoints, [one for one in variables if one.name not in chosen])
    state = state_used(definition)
    if state:
        raise NotFrozen(f"it uses {', '.join(state)}")
    return Frozen(
        definition,
        {name: _renamed(one) for name, one in endpoints.items()},
        tuple(one for one in variables if one.name in chosen),
        len(variables),
        sum(chosen.values()),
    )


def add(session: Any, frozen: Frozen) -> None:
    """Adds it to the session's graph; what stays a variable there means the same one under its new name."""
    import tensorflow as tf

    for node in frozen.definition.node:
        if node.op in _VARIABLES and not node.attr["shared_name"].s:
            node.attr["shared_name"].s = node.name.encode()
    with session.graph.as_default():
        tf.import_graph_def(frozen.definition, name=_SCOPE)


def release(session: Any, frozen: Frozen) -> None:
    """Frees the variables that became constants; the signatures as they were loaded can't be run any more."""
    import tensorflow as tf

    with session.graph.as_default():
        ended = [
            tf.raw_ops.DestroyResourceOp(resource=one.outputs[0], ignore_lookup_error=True)
            for one in frozen.spared
            if one.type == "VarHandleOp"
        ]
    session.run(ended)


def _choose(variables: Iterable[Any]) -> dict[str, int]:
    """Names and bytes of the variables to freeze, the smallest first."""
    together, chosen = 0, {}
    for size, name in sorted((_bytes(one), one.name) for one in variables):
        together += size
        if size > MOST_BYTES or together > MOST_BYTES_TOGETHER:
            break
        chosen[name] = size
    return chosen


def _bytes(variable: Any) -> int:
    """Size of a variable; one whose shape or type is not known counts as too large."""
    shape, dtype = variable.get_attr("shape"), variable.get_attr("dtype")
    sizes = [int(dimension.size) for dimension in shape.dim]
    if shape.unknown_rank or any(size < 0 for size in sizes) or not dtype.size:
        return MOST_BYTES + 1
    return math.prod((*sizes, int(dtype.size)))


def _converted(session: Any, endpoints: Mapping[str, Endpoint], kept: Iterable[Any]) -> Any:
    """The GraphDef of what the signatures need, with constants for all variables but those `kept`."""
    import tensorflow as tf

    # Inputs too: one that no output depends on must still be there to be fed.
    tensors = {tensor for one in endpoints.values() for tensor in (*one.feeds.values(), *one.fetches.values())}
    return tf.compat.v1.graph_util.convert_variables_to_constants(
        session,
        session.graph.as_graph_def(),
        sorted({tensor.partition(":")[0] for tensor in tensors}),
        variable_names_blacklist=[one.name for one in kept],
    )


def _renamed(endpoint: Endpoint) -> Endpoint:
    return replace(
        endpoint,
        feeds={name: f"{_SCOPE}/{tensor}" for name, tensor in endpoint.feeds.items()},
        fetches={name: f"{_SCOPE}/{tensor}" for name, tensor in endpoint.fetches.items()},
    )
