"""Whether a decoded struct, and every struct in it, has its required fields.

    class  --requirement_of-->  check(struct): nothing | TProtocolException

Thrift's Python code never checks `required` on read, so what the IDL promises would not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any

from thrift.protocol.TProtocol import TProtocolException

from thriftserve_client.wire.encoder import Walk

Require = Callable[[Any], Any]

_compiling = RLock()


#: What `requirement_of` has made. Every message looks here first.
requirements: dict[type, Require | None] = {}


def requirement_of(cls: type) -> Require | None:
    """What checks a struct of this class; None: nothing to check. Made once, kept for good.

    Raises (the function returned): TProtocolException naming the struct and the field.
    """
    with _compiling:
        if cls not in requirements:
            requirements[cls] = _WALK.compile(cls)
        return requirements[cls]


def _missing(cls: str, field: str) -> TProtocolException:
    return TProtocolException(TProtocolException.INVALID_DATA, f"{cls}: Required field {field} is unset!")


def _checks(cls: type, variable: str) -> list[str]:
    return [
        f"if {variable}.{name} is None: raise missing({cls.__name__!r}, {name!r})" for name in _required_fields(cls)
    ]


def _required_fields(cls: Any) -> list[str]:
    """The fields without which `validate`, which the Thrift compiler writes, raises."""
    names = [one[2] for one in getattr(cls, "thrift_spec", None) or () if one is not None]
    return [name for name in names if not _is_valid(cls(**{other: other != name or None for other in names}))]


def _is_valid(struct: Any) -> bool:
    try:
        struct.validate()
    except TProtocolException:
        return False
    return True


def _again(cls: type, struct: Any) -> bool:
    check = requirement_of(cls)
    if check is not None:
        check(struct)
    return False


_WALK = Walk(at_struct=_checks, at_binary=lambda _: [], again=_again, any_key=True, known={"missing": _missing})
