"""Settings as flags of a command line.

    settings class  -->  add_flags(parser)  -->  parse_args  -->  given_flags(namespace): {name: value}

The result has only the flags that were given: the other settings may come from another source.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from thriftserve.settings.field import Setting, Settings, settings_of


def add_flags(parser: argparse.ArgumentParser, cls: type[Settings]) -> None:
    """Add --config, --print-settings and one flag for each setting of `cls`, in groups."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"TOML file with settings. {cls.VARIABLE_PREFIX}CONFIG can name it, too."
    )
    parser.add_argument("--print-settings", action="store_true", help="Print every value and its source, and exit.")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting in settings_of(cls):
        if setting.info.group not in groups:
            groups[setting.info.group] = parser.add_argument_group(setting.info.group)
        _add_flag(groups[setting.info.group], setting)


def flag_names(cls: type[Settings]) -> list[str]:
    """Return every flag that `add_flags` adds."""
    settings = settings_of(cls)
    negated = [setting.flag.replace("--", "--no-", 1) for setting in settings if setting.kind is bool]
    return ["--config", "--print-settings", *(setting.flag for setting in settings), *negated]


def given_flags(namespace: argparse.Namespace, cls: type[Settings]) -> dict[str, Any]:
    """Return the values of the flags that were given, by the setting's name."""
    given = vars(namespace)
    values = {setting.name: given[setting.name] for setting in settings_of(cls) if setting.name in given}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def help_text(setting: Setting) -> str:
    """Return the help of a setting with its default."""
    default = format_value(setting.default)
    return setting.info.help + ("" if default == "unset" else f" (default: {default})")


def format_value(value: Any) -> str:
    """Return the value of a setting as a user would write it, or "unset"."""
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _add_flag(group: argparse._ArgumentGroup, setting: Setting) -> None:
    text = help_text(setting).replace("%", "%%")
    if setting.kind is bool:
        group.add_argument(setting.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    group.add_argument(
        setting.flag,
        dest=setting.name,
        action="append" if setting.info.repeated else "store",
        default=argparse.SUPPRESS,
        type=_converter(setting),
        choices=setting.info.choices or None,
        metavar=None if setting.info.choices else _metavar(setting),
        help=text,
    )


def _converter(setting: Setting) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return setting.item_from_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return convert


def _metavar(setting: Setting) -> str:
    if setting.info.metavar:
        return setting.info.metavar
    return setting.info.unit.upper() or ("N" if setting.kind in (int, float) else setting.name.upper())
