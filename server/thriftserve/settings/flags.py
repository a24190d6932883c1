"""Settings as flags of a command line.

::

    settings class  -->  add_flags(parser)  -->  parse_args  -->  given_flags(namespace): {name: value}

Only flags that were given are in the result: whatever is absent may come from another source.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from thriftserve.settings.convert import item_from_text
from thriftserve.settings.field import Setting, prefix_of, settings_of


def add_flags(parser: argparse.ArgumentParser, cls: type) -> None:
    """Adds --config and --print-settings, and one flag for each setting of `cls`, in groups."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"a TOML file with settings ({prefix_of(cls)}CONFIG names one too)"
    )
    parser.add_argument("--print-settings", action="store_true", help="show every value and its source; serve nothing")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for one in settings_of(cls):
        if one.info.group not in groups:
            groups[one.info.group] = parser.add_argument_group(one.info.group)
        _add_flag(groups[one.info.group], one)


def flag_names(cls: type) -> list[str]:
    """Every flag that `add_flags` adds."""
    settings = settings_of(cls)
    negated = [one.flag.replace("--", "--no-", 1) for one in settings if one.kind is bool]
    return ["--config", "--print-settings", *(one.flag for one in settings), *negated]


def given_flags(namespace: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The values of the flags that were given, by the setting's name."""
    given = {one.name: getattr(namespace, one.name) for one in settings_of(cls) if hasattr(namespace, one.name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _add_flag(group: argparse._ArgumentGroup, one: Setting) -> None:
    text = help_of(one).replace("%", "%%")
    if one.kind is bool:
        group.add_argument(one.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    group.add_argument(
        one.flag,
        dest=one.name,
        action="append" if one.info.repeated else "store",
        default=argparse.SUPPRESS,
        type=_converter(one),
        choices=one.info.choices or None,
        metavar=None if one.info.choices else _metavar(one),
        help=text,
    )


def _converter(one: Setting) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return item_from_text(one, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return convert


def _metavar(one: Setting) -> str:
    if one.info.metavar:
        return one.info.metavar
    return one.info.unit.upper() or ("N" if one.kind in (int, float) else one.name.upper())


def help_of(one: Setting) -> str:
    """A setting's help with its default."""
    default = shown(one.default)
    return one.info.help + ("" if default == "unset" else f" (default: {default})")


def shown(value: Any) -> str:
    """A setting's value as a reader would write it; "unset" where there is none."""
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
