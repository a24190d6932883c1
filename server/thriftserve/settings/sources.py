"""Where the values of settings come from; the later source wins.

::

    defaults < TOML file < THRIFTSERVE_… variables < flags  -->  Effective(settings, where each came from)

The variables of a settings class begin with its own prefix; those of one with a longer prefix are not looked at.

A TOML file has the settings' own names as keys, and may name models in a table:

    port = 9090
    read_timeout_s = 10

    [models]
    digits = "/models/digits"
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from thriftserve.errors import ConfigError
from thriftserve.settings.convert import from_text, from_toml
from thriftserve.settings.field import PREFIX, Setting, prefix_of, settings_of

S = TypeVar("S")

#: What else has variables of its own: one environment may hold those of a server and of its gateway.
GATEWAY_PREFIX = f"{PREFIX}GATEWAY_"
#: Container platforms put variables of these names beside a service that is called "thriftserve".
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT).*|PORT_\d+_(TCP|UDP).*")


@dataclass(frozen=True)
class Effective(Generic[S]):
    """Settings as they hold, and for each by its name where its value came from."""

    settings: S
    origins: Mapping[str, str]


@dataclass(frozen=True)
class _Found:
    value: Any
    origin: str


def gather(
    cls: type[S], *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str], config: str | None = None
) -> Effective[S]:
    """The settings that hold, from every source.

    Args:
        cls: the settings class to fill.
        flags: values of the flags that were given, by the setting's name.
        environ: the environment; only what begins with the class's prefix is looked at.
        config: path of the TOML file. None: the one that the variable …CONFIG names, if any.

    Raises:
        ConfigError: names the source, the setting, its value and the remedy.
    """
    known = {one.name: one for one in settings_of(cls)}
    prefix = prefix_of(cls)
    path = config or environ.get(f"{prefix}CONFIG")
    found = {name: _Found(one.default, "default") for name, one in known.items()}
    if path:
        found |= _from_file(known, Path(path))
    found |= _from_environment(known, environ, prefix)
    for name, value in (flags or {}).items():
        found[name] = _checked(known[name], _Found(value, f"flag {known[name].flag}"))
    settings = cls(**{name: one.value for name, one in found.items()})
    return Effective(settings, {name: one.origin for name, one in found.items()})


def _checked(setting: Setting, found: _Found) -> _Found:
    fault = setting.fault(found.value)
    if fault:
        raise ConfigError(f"{found.origin}: {setting.name} is {found.value!r}: {fault}")
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest known name, ready to be appended to a message; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _from_environment(known: Mapping[str, Setting], environ: Mapping[str, str], prefix: str) -> dict[str, _Found]:
    by_variable = {one.variable: one for one in known.values()}
    found = {}
    for variable in sorted(name for name in environ if name.startswith(prefix)):
        text = environ[variable]
        theirs = prefix == PREFIX and variable.startswith(GATEWAY_PREFIX)
        if not text or theirs or variable == f"{prefix}CONFIG" or _is_service_link(variable.removeprefix(prefix), text):
            continue
        if variable not in by_variable:
            hint = did_you_mean(variable, by_variable) or "; docs/reference/settings.md lists every setting"
            raise ConfigError(f"environment variable {variable}={text}: there is no such setting{hint}")
        one = by_variable[variable]
        try:
            value = from_text(one, text)
        except ValueError as error:
            raise ConfigError(f"environment variable {variable}: {one.name} is {text!r}: {error}") from None
        found[one.name] = _checked(one, _Found(value, f"environment variable {variable}"))
    return found


def _is_service_link(name: str, text: str) -> bool:
    """Whether a container platform set the variable: it says tcp://10.0.0.7:9090 in THRIFTSERVE_PORT."""
    return bool(_SERVICE_LINK.fullmatch(name)) or (name == "PORT" and "://" in text)


def _from_file(known: Mapping[str, Setting], path: Path) -> dict[str, _Found]:
    origin = f"file {path}"
    content = _read(path)
    models = _models(content.pop("models", {}), origin) if "model" in known else ()
    found = {}
    for key, raw in content.items():
        if key not in known:
            hint = did_you_mean(key, known) or "; docs/reference/settings.md lists every setting"
            raise ConfigError(f"{origin}: {key} = {raw!r}: there is no such setting{hint}")
        try:
            value = from_toml(known[key], raw)
        except ValueError as error:
            raise ConfigError(f"{origin}: {key} is {raw!r}: {error}") from None
        found[key] = _checked(known[key], _Found(value, origin))
    if models:
        listed = found["model"].value if "model" in found else ()
        found["model"] = _Found((*listed, *models), origin)
    return found


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
