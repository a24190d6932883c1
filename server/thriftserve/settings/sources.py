"""The sources that the values of settings come from: a file, variables, flags. A later source wins.

    defaults < TOML file < environment variables < flags  -->  Effective(settings, origins)

The variables of a settings class begin with its own prefix. A TOML file has the names of the settings as keys, and
may list models in a table:

    port = 9090
    read_timeout_s = 10

    [models]
    digits = "/models/digits"
"""

from __future__ import annotations

import argparse
import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from thriftserve.errors import ConfigError
from thriftserve.settings.field import PREFIX, Setting, Settings, settings_of

S = TypeVar("S", bound=Settings)

#: The gateway's variables, which also begin with the server's prefix. One environment may hold those of both.
GATEWAY_PREFIX = f"{PREFIX}GATEWAY_"
#: The variables that container platforms set for a service called "thriftserve", without the prefix.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT).*|PORT_\d+_(TCP|UDP).*")


@dataclass(frozen=True)
class Effective(Generic[S]):
    """The effective settings, and for each by its name the source of its value."""

    settings: S
    origins: Mapping[str, str]


@dataclass(frozen=True)
class _Value:
    value: Any
    origin: str


def gather(
    cls: type[S], *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str], config: str | None = None
) -> Effective[S]:
    """Return the effective settings, from every source.

    Args:
        cls: the settings class to fill.
        flags: values of the flags that were given, by the setting's name.
        environ: the environment. Only variables with the prefix of the class count.
        config: path of the TOML file. None: the one that the variable …CONFIG names, if any.

    Raises:
        ConfigError: names the source, the setting, its value and the remedy.
    """
    known = {setting.name: setting for setting in settings_of(cls)}
    prefix = cls.VARIABLE_PREFIX
    path = config or environ.get(f"{prefix}CONFIG")
    values = {name: _Value(setting.default, "default") for name, setting in known.items()}
    if path:
        values |= _from_file(known, Path(path))
    values |= _from_environment(known, environ, prefix)
    for name, value in (flags or {}).items():
        values[name] = _checked(known[name], value, f"flag {known[name].flag}")
    settings = cls(**{name: item.value for name, item in values.items()})
    return Effective(settings, {name: item.origin for name, item in values.items()})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest known name, to be appended to a message; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _checked(setting: Setting, value: Any, origin: str) -> _Value:
    if problem := setting.problem(value):
        raise ConfigError(f"{origin}: {setting.name} is {value!r}: {problem}")
    return _Value(value, origin)


def _from_environment(known: Mapping[str, Setting], environ: Mapping[str, str], prefix: str) -> dict[str, _Value]:
    by_variable = {setting.variable: setting for setting in known.values()}
    values = {}
    for variable in sorted(name for name in environ if name.startswith(prefix)):
        text = environ[variable]
        is_gateways = prefix == PREFIX and variable.startswith(GATEWAY_PREFIX)
        name = variable.removeprefix(prefix)
        if not text or is_gateways or name == "CONFIG" or _is_service_link(name, text):
            continue
        if variable not in by_variable:
            raise ConfigError(f"environment variable {variable}={text}: {_no_such_setting(variable, by_variable)}")
        setting = by_variable[variable]
        origin = f"environment variable {variable}"
        try:
            value = setting.from_text(text)
        except ValueError as error:
            raise ConfigError(f"{origin}: {setting.name} is {text!r}: {error}") from None
        values[setting.name] = _checked(setting, value, origin)
    return values


def _is_service_link(name: str, text: str) -> bool:
    """Return whether a container platform set the variable, as in THRIFTSERVE_PORT=tcp://10.0.0.7:9090."""
    return bool(_SERVICE_LINK.fullmatch(name)) or (name == "PORT" and "://" in text)


def _no_such_setting(name: str, known: Iterable[str]) -> str:
    return f"there is no such setting{did_you_mean(name, known) or '; docs/reference/settings.md lists every setting'}"


def _from_file(known: Mapping[str, Setting], path: Path) -> dict[str, _Value]:
    origin = f"file {path}"
    content = _read(path)
    models = _models(content.pop("models", {}), origin) if "model" in known else ()
    values = {}
    for key, raw in content.items():
        if key not in known:
            raise ConfigError(f"{origin}: {key} = {raw!r}: {_no_such_setting(key, known)}")
        try:
            value = known[key].from_toml(raw)
        except ValueError as error:
            raise ConfigError(f"{origin}: {key} is {raw!r}: {error}") from None
        values[key] = _checked(known[key], value, origin)
    if models:
        listed = values["model"].value if "model" in values else ()
        values["model"] = _Value((*listed, *models), origin)
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"file {path}: {error.strerror or error}: give a readable TOML file with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"file {path}: not TOML: {error}") from None


def _models(table: Any, origin: str) -> tuple[str, ...]:
    if not isinstance(table, dict):
        raise ConfigError(f'{origin}: models is {table!r}: must be a table: [models] and below it NAME = "BASE_PATH"')
    for name, path in table.items():
        if not isinstance(path, str):
            raise ConfigError(f'{origin}: models.{name} is {path!r}: must be text: {name} = "BASE_PATH"')
    return tuple(f"{name}={path}" for name, path in table.items())


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
