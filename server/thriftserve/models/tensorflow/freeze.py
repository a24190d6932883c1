"""Turns small variables of a loaded SavedModel into constants, inside the session that it was loaded into.

    session's graph  --freeze-->  its signatures' part, constants for variables  --add, as "frozen/…"-->  endpoints
    answers before, answers after  --find_difference-->  "" | what differs

TensorFlow rewrites a graph for speed before it first runs, and it can fold, fuse and lay out beforehand what it knows
to be constant: above all, batch norms into their convolutions. But a constant costs several times its size in memory
(in the graph, in its copies, once more for each set of outputs), so large variables stay variables. They gain little:
what is large is the weights of a dense layer or an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thriftserve.models.session import Array
from thriftserve.models.tensorflow.meta_graph import Endpoint

#: A variable of more bytes stays a variable.
MOST_BYTES = 4 << 20
#: All constants of a model together, in bytes; the smallest variables come first.
MOST_BYTES_TOGETHER = 64 << 20
#: Name of the rewritten part in the session's graph.
_SCOPE = "frozen"
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
#: TensorFlow calls these stateful, yet reading variables, calling, branching, checking leave nothing behind.
_HARMLESS = frozenset({
    "Assert", "Case", "DisableCopyOnRead", "For", "If", "ReadVariableOp", "ResourceGather", "ResourceGatherNd",
    "StatefulPartitionedCall", "VarHandleOp", "VarIsInitializedOp", "Variable", "VariableV2", "While",
})  # fmt: skip
#: Answers of floats may differ by this part of the largest one, by bytes of an element: a constant folded beforehand
#: rounds in another order.
_TOLERANCE = {1: 0.1, 2: 2e-2, 4: 1e-3, 8: 1e-6, 16: 1e-6}

#: The outputs, or the name of the error: a model may refuse what it is tried with.
Answer = Mapping[str, Array] | str


class NotFrozen(Exception):
    """The model must stay as it was loaded; the message says why."""


@dataclass(frozen=True)
class FrozenGraph:
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


def freeze(session: Any, endpoints: Mapping[str, Endpoint]) -> FrozenGraph:
    """Return a session's graph with constants for small variables; the session stays as it is.

    Raises:
        NotFrozen: There is no variable to freeze, or the signatures keep state that must not be doubled.
    """
    variables = [operation for operation in session.graph.get_operations() if operation.type in _VARIABLES]
    chosen = _choose(variables)
    if not chosen:
        raise NotFrozen("it has no variables that are small enough" if variables else "it has no variables")
    variable_names = [variable.name for variable in variables if variable.name not in chosen]
    definition = _convert(session, endpoints, variable_names)
    state = _stateful_types(definition)
    if state:
        raise NotFrozen(f"it uses {', '.join(state)}")
    return FrozenGraph(
        definition,
        {name: _rename(endpoint) for name, endpoint in endpoints.items()},
        tuple(variable for variable in variables if variable.name in chosen),
        len(variables),
        sum(chosen.values()),
    )


def add(session: Any, frozen: FrozenGraph) -> None:
    """Add it to the session's graph; what stays a variable there means the same one under its new name."""
    import tensorflow as tf

    for node in frozen.definition.node:
        if node.op in _VARIABLES and not node.attr["shared_name"].s:
            node.attr["shared_name"].s = node.name.encode()
    with session.graph.as_default():
        tf.import_graph_def(frozen.definition, name=_SCOPE)


def release(session: Any, frozen: FrozenGraph) -> None:
    """Free the variables that became constants; the signatures as they were loaded can't be run any more."""
    import tensorflow as tf

    with session.graph.as_default():
        destructions = [
            tf.raw_ops.DestroyResourceOp(resource=variable.outputs[0], ignore_lookup_error=True)
            for variable in frozen.spared
            if variable.type == "VarHandleOp"
        ]
    session.run(destructions)


def find_difference(name: str, before: list[Answer], after: list[Answer]) -> str:
    """Return how the answers of the signature `name` differ before and after, in words; "" if they are the same."""
    compared = 0
    for old, new in zip(before, after, strict=True):
        if isinstance(old, str) or isinstance(new, str):
            if type(old) is not type(new):
                failed = old if isinstance(old, str) else new
                return f"{name!r} fails only as loaded or only with constants: {failed}"
            continue
        compared += 1
        for output, value in old.items():
            if not same(value, new[output]):
                return f"{name!r} gives another {output!r} with constants for its variables"
    return "" if compared else f"{name!r} answers none of the inputs that it was tried with"


def same(before: Array, after: Array) -> bool:
    """Return whether two arrays are equal: floats within their precision, all else exactly."""
    if before.dtype != after.dtype or before.shape != after.shape:
        return False
    if before.dtype.kind not in "fcV":
        return bool(np.array_equal(before, after))
    part = _TOLERANCE[before.dtype.itemsize]
    wide: Any = np.complex128 if before.dtype.kind == "c" else np.float64  # bfloat16 has a kind of its own, V
    a, b = before.astype(wide), after.astype(wide)
    finite = np.abs(a[np.isfinite(a)])
    return bool(np.allclose(b, a, rtol=part, atol=part * float(finite.max(initial=0.0)), equal_nan=True))


def _choose(variables: Iterable[Any]) -> dict[str, int]:
    """Return names and bytes of the variables to freeze, the smallest first."""
    together, chosen = 0, {}
    for size, name in sorted((_size(variable), variable.name) for variable in variables):
        together += size
        if size > MOST_BYTES or together > MOST_BYTES_TOGETHER:
            break
        chosen[name] = size
    return chosen


def _size(variable: Any) -> int:
    """Return the bytes of a variable; one whose shape or type is not known counts as too large."""
    shape, dtype = variable.get_attr("shape"), variable.get_attr("dtype")
    sizes = [int(dimension.size) for dimension in shape.dim]
    if shape.unknown_rank or any(size < 0 for size in sizes) or not dtype.size:
        return MOST_BYTES + 1
    return math.prod((*sizes, int(dtype.size)))


def _convert(session: Any, endpoints: Mapping[str, Endpoint], variable_names: list[str]) -> Any:
    """Return the GraphDef of what the signatures need, with constants for all variables but those `variable_names`."""
    import tensorflow as tf

    # Inputs too: one that no output depends on must still be there to be fed.
    tensors = {
        tensor for endpoint in endpoints.values() for tensor in (*endpoint.feeds.values(), *endpoint.fetches.values())
    }
    return tf.compat.v1.graph_util.convert_variables_to_constants(
        session,
        session.graph.as_graph_def(),
        sorted({tensor.partition(":")[0] for tensor in tensors}),
        variable_names_blacklist=variable_names,
    )


def _rename(endpoint: Endpoint) -> Endpoint:
    return replace(
        endpoint,
        feeds={name: f"{_SCOPE}/{tensor}" for name, tensor in endpoint.feeds.items()},
        fetches={name: f"{_SCOPE}/{tensor}" for name, tensor in endpoint.fetches.items()},
    )


def _stateful_types(definition: Any) -> list[str]:
    """Return the types of operations that keep state, or write to what does, sorted; unknown ones too."""
    return sorted({node.op for node in _reached_nodes(definition) if _keeps_state(node.op)})


def _reached_nodes(definition: Any) -> Iterator[Any]:
    """Yield every node of the graph, and of each function that one of these calls."""
    functions = {function.signature.name: function for function in definition.library.function}
    waiting = list(definition.node)
    while waiting:
        node = waiting.pop()
        yield node
        for name in (node.op, *_called_functions(node)):
            function = functions.pop(name, None)
            if function is not None:
                waiting.extend(function.node_def)


def _called_functions(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _keeps_state(operation: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(operation)
    if definition is None:  # a function called by its own name: its body is examined
        return False
    writes = any(argument.is_ref for argument in definition.input_arg) and operation != "Identity"
    return operation not in _HARMLESS and (definition.is_stateful or writes)
