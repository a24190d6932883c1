"""The right encoder for each message: C for small fields, by reference for large ones.

    struct --Plan--> no large field: one call into C
                     a large field:  C for the rest of its struct, the field itself as a segment of its own

Apache's C encoder copies `binary` fields byte by byte (602 KB: 0.37 ms, 19 MB: 25 ms), and its
pure-Python encoder is slow for everything else. So a struct that bears a large field is written in
two parts: all its other fields by the C encoder, then each large field as header and content, the
content never copied. Field order carries no meaning in Thrift's protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from threading import RLock
from types import SimpleNamespace
from typing import Any

from thrift.Thrift import TType

# Functions made for one generated struct class, which look at every value in it without a call for each.


class Walk:
    """How to look through structs.

    Args:
        at_struct: (class, variable) -> lines that look at a struct itself.
        at_binary: variable -> lines that look at a `binary`.
        again: what a struct inside one of its own class is given to: (class, value) -> True ends the walk.
        any_key: False: maps whose keys are no strings are left out.
        known: what the lines may use, by name.
    """

    def __init__(
        self,
        *,
        at_struct: Callable[[type, str], list[str]],
        at_binary: Callable[[str], list[str]],
        again: Callable[[type, Any], bool],
        any_key: bool,
        known: dict[str, Any],
    ) -> None:
        self._at_struct = at_struct
        self._at_binary = at_binary
        self._any_key = any_key
        self._again = again
        self._known = known

    def compile(self, cls: type) -> Callable[[Any], Any] | None:
        """The function for one class; None where there is nothing to look at.

        It returns what the lines return, False where they don't.
        """
        names = dict(self._known, again=self._again)
        body = self._struct(cls, "v0", [], names)
        if not body:
            return None
        source = "\n".join(["def walk(v0):", *_indented(body), "    return False"])
        exec(source, names)  # made of field names and of the lines above, never of what a peer sent
        found: Callable[[Any], Any] = names["walk"]
        return found

    def _struct(self, cls: type, variable: str, above: list[type], names: dict[str, Any]) -> list[str]:
        if cls in above:
            alias = f"c{len(names)}"
            names[alias] = cls
            return [f"if again({alias}, {variable}): return True"]
        lines = self._at_struct(cls, variable)
        for at, one in enumerate(getattr(cls, "thrift_spec", None) or ()):
            if one is None:
                continue
            inner = f"{variable}_{at}"
            body = self._value(one[1], one[3], inner, [*above, cls], names)
            if body:
                lines += [f"{inner} = {variable}.{one[2]}", f"if {inner} is not None:", *_indented(body)]
        return lines

    def _value(self, ttype: int, args: Any, variable: str, above: list[type], names: dict[str, Any]) -> list[str]:
        if ttype == TType.STRING:
            return self._at_binary(variable) if args == "BINARY" else []
        if ttype == TType.STRUCT:
            return self._struct(args[0], variable, above, names)
        if ttype in (TType.LIST, TType.SET):
            (kind, inside), values = args[:2], variable
        elif ttype == TType.MAP and (self._any_key or args[0] == TType.STRING):
            (kind, inside), values = args[2:4], f"{variable}.values()"
        else:
            return []
        body = self._value(kind, inside, f"{variable}i", above, names)
        return [f"for {variable}i in {values}:", *_indented(body)] if body else []


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


#: Fields of this many bytes are written by reference. Below it the C encoder's copy is cheaper than
#: a second pass over the struct.
LARGE_BYTES = 8 * 1024

Emit = Callable[["Dialect", Any, list[bytes]], None]
Test = Callable[[Any], bool]


class Dialect:
    """How one protocol writes what a large field is wrapped in."""

    def __init__(self, encode: Callable[[Any, Any], bytes]) -> None:
        self.encode = encode

    def field(self, ttype: int, field_id: int) -> bytes:
        """The header of a field."""
        raise NotImplementedError

    def length(self, size: int) -> bytes:
        """The length of a string."""
        raise NotImplementedError

    def list_header(self, ttype: int, size: int) -> bytes:
        """The header of a list or set."""
        raise NotImplementedError

    def map_header(self, ktype: int, vtype: int, size: int) -> bytes:
        """The header of a map."""
        raise NotImplementedError


_FIELD = Struct("!bh").pack
_I32 = Struct("!i").pack
_LIST = Struct("!bi").pack
_MAP = Struct("!bbi").pack


class BinaryDialect(Dialect):
    """Apache's binary protocol."""

    def field(self, ttype: int, field_id: int) -> bytes:
        return _FIELD(ttype, field_id)

    def length(self, size: int) -> bytes:
        return _I32(size)

    def list_header(self, ttype: int, size: int) -> bytes:
        return _LIST(ttype, size)

    def map_header(self, ktype: int, vtype: int, size: int) -> bytes:
        return _MAP(ktype, vtype, size)


_COMPACT = {TType.STRING: 8, TType.LIST: 9, TType.SET: 10, TType.MAP: 11, TType.STRUCT: 12}


def varint(number: int) -> bytes:
    """A number of 0 or more, seven bits a byte, the low ones first: as the compact protocol and protobuf write it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class CompactDialect(Dialect):
    """Apache's compact protocol; fields in its long form, which needs no memory of the field before."""

    def field(self, ttype: int, field_id: int) -> bytes:
        zigzag = (field_id << 1) ^ (field_id >> 15)
        return bytes((_COMPACT[ttype],)) + varint(zigzag)

    def length(self, size: int) -> bytes:
        return varint(size)

    def list_header(self, ttype: int, size: int) -> bytes:
        kind = _COMPACT[ttype]
        return bytes((size << 4 | kind,)) if size < 15 else bytes((0xF0 | kind,)) + varint(size)

    def map_header(self, ktype: int, vtype: int, size: int) -> bytes:
        return varint(size) + bytes((_COMPACT[ktype] << 4 | _COMPACT[vtype],)) if size else b"\0"


class FieldPlan:
    """A field that may bear something large: how to tell, and how to write it."""

    __slots__ = ("emit", "field_id", "name", "test", "ttype")

    def __init__(self, field_id: int, ttype: int, name: str, test: Test, emit: Emit) -> None:
        self.field_id = field_id
        self.ttype = ttype
        self.name = name
        self.test = test
        self.emit = emit


class StructPlan:
    """A struct's fields that may bear something large; none for most structs."""

    __slots__ = ("bears_large", "fields", "names", "spec")

    def __init__(self, spec: Any, fields: tuple[FieldPlan, ...], bears_large: Test) -> None:
        self.spec = spec
        self.fields = fields
        self.names = tuple(one[2] for one in spec or () if one is not None)
        #: True where any field of a struct is, or holds, `LARGE_BYTES` or more.
        self.bears_large = bears_large

    def emit(self, dialect: Dialect, struct: Any, parts: list[bytes]) -> None:
        """Appends the encoded struct to `parts`."""
        large = [
            (one, value) for one in self.fields if (value := getattr(struct, one.name)) is not None and one.test(value)
        ]
        if not large:
            parts.append(dialect.encode(struct, [type(struct), self.spec]))
            return
        rest = SimpleNamespace(**{name: getattr(struct, name) for name in self.names})
        for one, _ in large:
            setattr(rest, one.name, None)
        parts.append(dialect.encode(rest, [type(struct), self.spec])[:-1])  # without the stop byte
        for one, value in large:
            parts.append(dialect.field(one.ttype, one.field_id))
            one.emit(dialect, value, parts)
        parts.append(b"\0")


#: Classes being looked at by the thread that holds `_planning`: a field that leads back to one is
#: resolved when it is met, not now.
_in_progress: set[type] = set()
_planning = RLock()


#: What `plan_of` has made. Every message looks here first.
plans: dict[type, StructPlan] = {}


def plan_of(cls: type) -> StructPlan:
    """The plan of a generated struct class; made once, kept for good."""
    with _planning:
        if cls not in plans:
            plans[cls] = _make_plan(cls)
        return plans[cls]


def _make_plan(cls: type) -> StructPlan:
    spec = getattr(cls, "thrift_spec", None) or ()
    _in_progress.add(cls)
    try:
        found_plans = []
        for one in spec:
            found = _value_plan(one[1], one[3]) if one is not None else None
            if found:
                found_plans.append(FieldPlan(one[0], one[1], one[2], *found))
        return StructPlan(spec, tuple(found_plans), _WALK.compile(cls) or _never)
    finally:
        _in_progress.discard(cls)


def _value_plan(ttype: int, args: Any) -> tuple[Test, Emit] | None:
    if ttype == TType.STRING:
        return (_is_large, _emit_binary) if args == "BINARY" else None
    if ttype == TType.STRUCT:
        return _struct_plan(args[0])
    if ttype in (TType.LIST, TType.SET):
        inner = _value_plan(args[0], args[1])
        return _list_plan(args[0], *inner) if inner else None
    if ttype == TType.MAP and args[0] == TType.STRING:
        inner = _value_plan(args[2], args[3])
        return _map_plan(args[0], args[2], *inner) if inner else None
    return None


def _never(struct: Any) -> bool:
    return False


_WALK = Walk(
    at_struct=lambda cls, variable: [],
    at_binary=lambda variable: [f"if len({variable}) >= {LARGE_BYTES}: return True"],
    again=lambda cls, struct: plan_of(cls).bears_large(struct),
    any_key=False,
    known={},
)


def _is_large(value: bytes) -> bool:
    return len(value) >= LARGE_BYTES


def _emit_binary(dialect: Dialect, value: bytes, parts: list[bytes]) -> None:
    parts.append(dialect.length(len(value)))
    parts.append(value)


def _struct_plan(cls: type) -> tuple[Test, Emit] | None:
    if cls in _in_progress:
        return _own_plan(cls)
    plan = plan_of(cls)
    return (plan.bears_large, plan.emit) if plan.fields else None


def _own_plan(cls: type) -> tuple[Test, Emit]:
    """A struct inside one of its class, whose plan is being made."""

    def bears_large(value: Any) -> bool:
        return plan_of(cls).bears_large(value)

    def emit(dialect: Dialect, value: Any, parts: list[bytes]) -> None:
        plan_of(cls).emit(dialect, value, parts)

    return bears_large, emit


def _list_plan(ttype: int, test: Test, emit: Emit) -> tuple[Test, Emit]:
    def any_large(values: Any) -> bool:
        return any(map(test, values))

    def emit_list(dialect: Dialect, values: Any, parts: list[bytes]) -> None:
        parts.append(dialect.list_header(ttype, len(values)))
        for value in values:
            emit(dialect, value, parts)

    return any_large, emit_list


def _map_plan(ktype: int, vtype: int, test: Test, emit: Emit) -> tuple[Test, Emit]:
    def any_large(values: Any) -> bool:
        return any(map(test, values.values()))

    def emit_map(dialect: Dialect, values: Any, parts: list[bytes]) -> None:
        parts.append(dialect.map_header(ktype, vtype, len(values)))
        for key, value in values.items():
            encoded = key.encode() if isinstance(key, str) else key
            parts.append(dialect.length(len(encoded)) + encoded)
            emit(dialect, value, parts)

    return any_large, emit_map
