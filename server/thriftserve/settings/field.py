"""One setting: a dataclass field that knows its own help, unit and check.

::

    setting(default, help, unit, check)  -->  dataclass field  -->  settings_of(cls): (Setting, …)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from thriftserve.errors import ConfigError

Check = Callable[[Any], str | None]


@dataclass(frozen=True)
class SettingInfo:
    """What is known of a setting besides its type and default."""

    help: str
    unit: str = ""
    check: Check | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    group: str = ""
    #: Given several times on the command line; a list in TOML; comma-separated in the environment.
    repeated: bool = False


def setting(
    default: Any,
    help: str,
    *,
    group: str,
    unit: str = "",
    check: Check | None = None,
    choices: tuple[str, ...] = (),
    metavar: str = "",
    repeated: bool = False,
) -> Any:
    """A dataclass field that knows its own help, unit and check."""
    info = SettingInfo(help, unit, check, choices, metavar, group, repeated)
    return field(default=default, metadata={"setting": info})


def at_least(low: float) -> Check:
    """Checks that a number is `low` or more; None passes (unset)."""

    def check(value: Any) -> str | None:
        return None if value is None or value >= low else f"must be {low:g} or more"

    return check


def above(low: float) -> Check:
    """Checks that a number is more than `low`; None passes (unset)."""

    def check(value: Any) -> str | None:
        return None if value is None or value > low else f"must be more than {low:g}"

    return check


def within(low: float, high: float) -> Check:
    """Checks that a number lies in [low, high]."""

    def check(value: Any) -> str | None:
        return None if low <= value <= high else f"must lie between {low:g} and {high:g}"

    return check


#: How every variable of ours begins; those of a class that has a VARIABLE_PREFIX begin with that.
PREFIX = "THRIFTSERVE_"


def prefix_of(cls: type) -> str:
    """How the variables of a settings class begin."""
    return str(getattr(cls, "VARIABLE_PREFIX", PREFIX))


#: What is expected of a value, by kind.
EXPECTED = {
    int: "must be a whole number",
    float: "must be a number",
    bool: "must be true or false",
    str: "must be text",
}


@dataclass(frozen=True)
class Setting:
    """A field of a settings class, with everything known of it."""

    name: str
    #: bool, int, float or str; of each item where the setting is repeated.
    kind: type
    #: True where None stands for "unset".
    optional: bool
    default: Any
    info: SettingInfo
    prefix: str

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return self.prefix + self.name.upper()

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, as the remedy ("must be …"); None: nothing."""
        if value is None and self.optional:
            return None
        items = value if self.info.repeated else (value,)
        if not all(_is_a(self.kind, item) for item in items):
            return EXPECTED[self.kind]
        if "" in items:
            # An empty variable of a script: --tls-cert "$CERT" must not mean "no TLS", nor --host "$HOST" "any host".
            return "must not be empty"
        if self.info.choices and value not in self.info.choices:
            return f"must be one of {', '.join(self.info.choices)}"
        return self.info.check(value) if self.info.check else None


def _is_a(kind: type, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


#: A class is looked through once: each child of a forking server reads its settings anew.
_known: dict[type, tuple[Setting, ...]] = {}


def settings_of(cls: type) -> tuple[Setting, ...]:
    """Every setting of a settings class, in the order in which they are written."""
    if cls not in _known:
        hints = get_type_hints(cls)
        _known[cls] = tuple(
            _setting(one.name, hints[one.name], one.default, one.metadata["setting"], prefix_of(cls))
            for one in fields(cls)
        )
    return _known[cls]


def _setting(name: str, hint: Any, default: Any, info: SettingInfo, prefix: str) -> Setting:
    parts = get_args(hint) or (hint,)
    return Setting(name, parts[0], type(None) in parts, default, info, prefix)


def check(settings: object) -> None:
    """Checks every field of a settings object.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    for one in settings_of(type(settings)):
        value = getattr(settings, one.name)
        fault = one.fault(value)
        if fault:
            raise ConfigError(f"{one.name} is {value!r}: {fault}")
