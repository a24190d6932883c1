"""One setting: a dataclass field that carries its own help, unit and check.

    setting(default, help, unit, check)  -->  dataclass field  -->  settings_of(cls): (Setting, …)
    text of a flag or variable, value of a TOML file  -->  Setting.from_text, Setting.from_toml  -->  value

A settings class is a frozen dataclass below `Settings` whose fields are all made by `setting`. The flag, the variable,
the TOML key and the row of docs/reference/settings.md derive from the field.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, get_args, get_type_hints

from thriftserve.errors import ConfigError

#: Returns what is wrong with a value, as the remedy ("must be …"); None: nothing.
Check = Callable[[Any], str | None]

#: The prefix of environment variables.
PREFIX = "THRIFTSERVE_"
#: The groups that several settings classes have.
LIMITS, LOGGING = "limits", "logging"

_EXPECTED = {
    int: "must be a whole number",
    float: "must be a number",
    bool: "must be true or false",
    str: "must be text",
}
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True)
class SettingInfo:
    """What a setting has besides its name, type and default."""

    help: str
    group: str
    unit: str = ""
    check: Check | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    #: Given several times on the command line, as a list in TOML, between commas in the environment.
    repeated: bool = False


def setting(default: Any, help: str, *, group: str, **info: Any) -> Any:
    """Return a dataclass field for a setting. `info` has further fields of `SettingInfo`."""
    return field(default=default, metadata={"setting": SettingInfo(help, group, **info)})


def log_level_setting() -> Any:
    """Return the field `log_level` of a settings class."""
    return setting(
        "info", "Least severe log lines to write.", group=LOGGING, choices=("debug", "info", "warning", "error")
    )


def log_format_setting() -> Any:
    """Return the field `log_format` of a settings class."""
    return setting("text", "Write log lines as text or as JSON.", group=LOGGING, choices=("text", "json"))


def at_least(low: float) -> Check:
    """Return a check that a number is `low` or more, or unset (None)."""
    return lambda value: None if value is None or value >= low else f"must be {low:g} or more"


def above(low: float) -> Check:
    """Return a check that a number is more than `low`, or unset (None)."""
    return lambda value: None if value is None or value > low else f"must be more than {low:g}"


def within(low: float, high: float) -> Check:
    """Return a check that a number is in [low, high], or unset (None)."""
    return lambda value: None if value is None or low <= value <= high else f"must lie between {low:g} and {high:g}"


@dataclass(frozen=True)
class Setting:
    """A field of a settings class, with everything known about it.

    Attributes:
        name: the field's name, and the key in TOML.
        kind: bool, int, float or str; of each item if the setting is repeated.
        optional: whether None, for "unset", is allowed.
        default: the field's default.
        info: help, unit, check and the like.
        prefix: how its environment variable begins.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    info: SettingInfo
    prefix: str

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return self.prefix + self.name.upper()

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a value, as the remedy ("must be …"); None if nothing is."""
        if value is None and self.optional:
            return None
        items = value if self.info.repeated else (value,)
        if not all(_is_a(self.kind, item) for item in items):
            return _EXPECTED[self.kind]
        if "" in items:
            # An empty variable of a script: --tls-cert "$CERT" must not mean "no TLS", nor --host "$HOST" "any host".
            return "must not be empty"
        if self.info.choices and value not in self.info.choices:
            return f"must be one of {', '.join(self.info.choices)}"
        return self.info.check(value) if self.info.check else None

    def from_text(self, text: str) -> Any:
        """Convert the text of an environment variable. Items of a repeated setting are separated by commas.

        Raises:
            ValueError: the text is no such value; the message says what is expected.
        """
        if self.info.repeated:
            return tuple(self.item_from_text(item.strip()) for item in text.split(",") if item.strip())
        return self.item_from_text(text)

    def item_from_text(self, text: str) -> Any:
        """Convert the text of a flag: the value, or one item of a repeated setting.

        Raises:
            ValueError: the text is no such value; the message says what is expected.
        """
        if self.kind is not bool:
            with contextlib.suppress(ValueError):
                return self.kind(text)
        elif text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise ValueError(_EXPECTED[self.kind])

    def from_toml(self, raw: Any) -> Any:
        """Convert a value of a TOML file.

        Raises:
            ValueError: the value has another type; the message says what is expected.
        """
        if self.info.repeated:
            if not isinstance(raw, list) or any(type(item) is not self.kind for item in raw):
                raise ValueError('must be a list of text: ["…", "…"]')
            return tuple(raw)
        if self.kind is float and type(raw) is int:
            return float(raw)
        if type(raw) is not self.kind:
            raise ValueError(_EXPECTED[self.kind])
        return raw


@dataclass(frozen=True)
class Settings:
    """The base of a settings class. Its fields are made by `setting`, and checked when an object is created.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """

    #: How its environment variables begin.
    VARIABLE_PREFIX: ClassVar[str] = PREFIX

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            value = getattr(self, item.name)
            if problem := item.problem(value):
                raise ConfigError(f"{item.name} is {value!r}: {problem}")


#: Kept, because each child of a forking server reads its settings again.
_settings_of: dict[type[Settings], tuple[Setting, ...]] = {}


def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """Return every setting of a settings class, in the order of its fields."""
    if cls not in _settings_of:
        hints = get_type_hints(cls)
        _settings_of[cls] = tuple(
            _setting(item.name, hints[item.name], item.default, item.metadata["setting"], cls.VARIABLE_PREFIX)
            for item in fields(cls)
        )
    return _settings_of[cls]


def _setting(name: str, hint: Any, default: Any, info: SettingInfo, prefix: str) -> Setting:
    kinds = get_args(hint) or (hint,)  # int | None, tuple[str, ...]
    return Setting(name, kinds[0], type(None) in kinds, default, info, prefix)


def _is_a(kind: type, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind
