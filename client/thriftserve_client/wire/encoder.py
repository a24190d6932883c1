"""Encode structs: small fields by Apache's C code, large ones without a copy.

    struct --StructPlan--> no large field: one call into C
                           a large field:  C for the rest of its struct, the field as a segment of its own

Apache's C encoder copies `binary` fields byte by byte (602 KB: 0.37 ms, 19 MB: 25 ms), and its pure-Python encoder is
slow for everything else. So a struct with a large field is written in two parts: the C encoder writes all other
fields, then each large field follows as header and content, which is never copied. The order of fields carries no
meaning in Thrift's protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from threading import RLock
from types import SimpleNamespace
from typing import Any

from thrift.Thrift import TType

from thriftserve_client.wire.visitors import StructVisitor

#: Fields of this many bytes are written by reference. Below it the C encoder's copy costs less than a second pass over
#: the struct.
LARGE_BYTES = 8 * 1024

Emit = Callable[["Dialect", Any, list[bytes]], None]
Test = Callable[[Any], bool]


class Dialect:
    """How one protocol writes the headers around a large field."""

    def __init__(self, encode: Callable[[Any, Any], bytes]) -> None:
        self.encode = encode

    def field(self, ttype: int, field_id: int) -> bytes:
        """Return the header of a field."""
        raise NotImplementedError

    def length(self, size: int) -> bytes:
        """Return the length of a string."""
        raise NotImplementedError

    def list_header(self, ttype: int, size: int) -> bytes:
        """Return the header of a list or set."""
        raise NotImplementedError

    def map_header(self, ktype: int, vtype: int, size: int) -> bytes:
        """Return the header of a map."""
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
    """Return a number of 0 or more as a varint: seven bits a byte, the low ones first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class CompactDialect(Dialect):
    """Apache's compact protocol. Fields have its long form, which does not depend on the field before."""

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
    """A field that may be or contain a large value: the test for that, and how to write it."""

    __slots__ = ("emit", "field_id", "name", "test", "ttype")

    def __init__(self, field_id: int, ttype: int, name: str, test: Test, emit: Emit) -> None:
        self.field_id = field_id
        self.ttype = ttype
        self.name = name
        self.test = test
        self.emit = emit


class StructPlan:
    """The fields of a struct class that may be or contain a large value; most classes have none."""

    __slots__ = ("fields", "has_large", "names", "spec")

    def __init__(self, spec: Any, fields: tuple[FieldPlan, ...], has_large: Test) -> None:
        self.spec = spec
        self.fields = fields
        self.names = tuple(field[2] for field in spec or () if field is not None)
        #: Return whether any field of a struct is or contains `LARGE_BYTES` or more.
        self.has_large = has_large

    def emit(self, dialect: Dialect, struct: Any, parts: list[bytes]) -> None:
        """Append the encoded struct to `parts`."""
        large = [
            (field, value)
            for field in self.fields
            if (value := getattr(struct, field.name)) is not None and field.test(value)
        ]
        if not large:
            parts.append(dialect.encode(struct, [type(struct), self.spec]))
            return
        rest = SimpleNamespace(**{name: getattr(struct, name) for name in self.names})
        for field, _ in large:
            setattr(rest, field.name, None)
        parts.append(dialect.encode(rest, [type(struct), self.spec])[:-1])  # without the stop byte
        for field, value in large:
            parts.append(dialect.field(field.ttype, field.field_id))
            field.emit(dialect, value, parts)
        parts.append(b"\0")


#: Classes whose plans the thread that holds `_planning` is making: a field of such a class finds its plan when it is
#: written.
_in_progress: set[type] = set()
_planning = RLock()


#: What `plan_of` has made. Every message looks here first, without a lock.
plans: dict[type, StructPlan] = {}


def plan_of(cls: type) -> StructPlan:
    """Return the plan of a generated struct class. Made once; any thread may call it."""
    with _planning:
        if cls not in plans:
            plans[cls] = _make_plan(cls)
        return plans[cls]


def _make_plan(cls: type) -> StructPlan:
    spec = getattr(cls, "thrift_spec", None) or ()
    _in_progress.add(cls)
    try:
        fields = []
        for field in spec:
            test_and_emit = _value_plan(field[1], field[3]) if field is not None else None
            if test_and_emit:
                fields.append(FieldPlan(field[0], field[1], field[2], *test_and_emit))
        return StructPlan(spec, tuple(fields), _LARGE_FIELDS.compile(cls) or _never)
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


_LARGE_FIELDS = StructVisitor(
    at_struct=lambda cls, variable: [],
    at_binary=lambda variable: [f"if len({variable}) >= {LARGE_BYTES}: return True"],
    recurse=lambda cls, struct: plan_of(cls).has_large(struct),
    any_key=False,
    names={},
)


def _is_large(value: bytes) -> bool:
    return len(value) >= LARGE_BYTES


def _emit_binary(dialect: Dialect, value: bytes, parts: list[bytes]) -> None:
    parts.append(dialect.length(len(value)))
    parts.append(value)


def _struct_plan(cls: type) -> tuple[Test, Emit] | None:
    if cls in _in_progress:
        return _recursive_plan(cls)
    plan = plan_of(cls)
    return (plan.has_large, plan.emit) if plan.fields else None


def _recursive_plan(cls: type) -> tuple[Test, Emit]:
    """Return the plan of a struct inside one of its own class, whose plan is being made."""

    def has_large(value: Any) -> bool:
        return plan_of(cls).has_large(value)

    def emit(dialect: Dialect, value: Any, parts: list[bytes]) -> None:
        plan_of(cls).emit(dialect, value, parts)

    return has_large, emit


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
