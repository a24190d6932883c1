"""Settings: which source wins, and what each error message says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT
from thriftserve.errors import ConfigError
from thriftserve.settings import HostSettings, ServeSettings, gather
from thriftserve.settings.docs import main as docs_main
from thriftserve.settings.docs import page
from thriftserve.settings.field import settings_of
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.settings.host import server_type_uses
from thriftserve.settings.sources import add_flags, given_flags, help_text


def parsed(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_flags(parser, ServeSettings)
    return given_flags(parser.parse_args(arguments), ServeSettings)


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "server.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def error_of(environ: dict[str, str] | None = None, **sources: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        gather(ServeSettings, environ=environ or {}, **sources)
    return caught.value.message


def test_each_source_beats_the_one_before(tmp_path: Path) -> None:
    """The last source that has a value wins, and the origin names it."""
    config = toml(tmp_path, "port = 1\nthreads = 1\nbacklog = 1\n")
    environ = {"THRIFTSERVE_PORT": "2", "THRIFTSERVE_THREADS": "2"}
    effective = gather(ServeSettings, flags=parsed("--port", "3"), environ=environ, config=config)
    values = effective.settings
    assert (values.port, values.threads, values.backlog, values.max_queued) == (3, 2, 1, 1000)
    origins = [effective.origins[name] for name in ("port", "threads", "backlog", "max_queued")]
    assert origins == ["flag --port", "environment variable THRIFTSERVE_THREADS", f"file {config}", "default"]


def test_every_setting_can_be_given_in_every_source(tmp_path: Path) -> None:
    """Each setting takes a non-default value from the file, from the environment and from its flag."""
    changed = {setting.name: _other_value(setting) for setting in settings_of(ServeSettings)}
    lines = [f"{name} = {_toml_literal(value)}" for name, value in changed.items()]
    environ = {f"THRIFTSERVE_{name.upper()}": _text(value) for name, value in changed.items()}
    flags = [word for name, value in changed.items() for word in _flag_words(name, value)]
    for effective in (
        gather(ServeSettings, environ={}, config=toml(tmp_path, "\n".join(lines))),
        gather(ServeSettings, environ=environ),
        gather(ServeSettings, flags=parsed(*flags), environ={}),
    ):
        assert {name: getattr(effective.settings, name) for name in changed} == changed


def _other_value(setting: Any) -> Any:
    if setting.info.choices:
        return next(choice for choice in setting.info.choices if choice != setting.default)
    if setting.name == "devices":
        return "gpu:0,gpu:1"
    if setting.info.repeated:
        return ("a=/m/a", "b=/m/b")
    return {bool: not setting.default, int: 2048, float: 1.5, str: "some/text"}[setting.kind]


def _toml_literal(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _flag_words(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [word for item in (value if isinstance(value, tuple) else (value,)) for word in (f"--{flag}", str(item))]


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    """THRIFTSERVE_CONFIG names the file, unless --config does."""
    ours, other = toml(tmp_path, "port = 1"), tmp_path / "other.toml"
    other.write_text("port = 2", encoding="utf-8")
    environ = {"THRIFTSERVE_CONFIG": ours}
    assert gather(HostSettings, environ=environ).settings.port == 1
    assert gather(HostSettings, environ=environ, config=str(other)).settings.port == 2


def test_models_of_a_file(tmp_path: Path) -> None:
    """The table [models] adds to the list `model`; a flag replaces both."""
    config = toml(tmp_path, 'model = ["a=/m/a"]\n[models]\nb = "/m/b"\n"c.d" = "python:m:C"\n')
    assert gather(ServeSettings, environ={}, config=config).settings.model == ("a=/m/a", "b=/m/b", "c.d=python:m:C")
    only = gather(ServeSettings, flags=parsed("--model", "x=/x"), environ={}, config=config).settings
    assert only.model == ("x=/x",)


def test_a_whole_number_will_do_for_a_time(tmp_path: Path) -> None:
    """A file may give seconds as a whole number."""
    assert gather(HostSettings, environ={}, config=toml(tmp_path, "read_timeout_s = 3")).settings.read_timeout_s == 3.0


@pytest.mark.parametrize(("word", "value"), [("true", True), ("YES", True), ("1", True), ("off", False), ("0", False)])
def test_words_for_yes_and_no(word: str, value: bool) -> None:
    """The environment may say yes and no in several words."""
    assert gather(ServeSettings, environ={"THRIFTSERVE_WARMUP": word}).settings.warmup is value


def test_what_is_not_ours_in_the_environment_is_left_alone() -> None:
    """Empty variables, those of other programs and those that a container platform sets are ignored."""
    environ = {
        "THRIFTSERVE_THREADS": "",
        "THRIFTSERVE_PORT": "tcp://10.0.0.7:9090",
        "THRIFTSERVE_SERVICE_HOST": "10.0.0.7",
        "THRIFTSERVE_SERVICE_PORT_RPC": "9090",
        "THRIFTSERVE_PORT_9090_TCP_ADDR": "10.0.0.7",
        "THRIFTSERVE_GATEWAY_PORT": "8502",
        "PORT": "1",
    }
    assert gather(ServeSettings, environ=environ).settings == ServeSettings()


def test_the_gateway_has_variables_of_its_own() -> None:
    """They begin with THRIFTSERVE_GATEWAY_. The server's are ignored; errors in the gateway's own are reported."""
    environ = {
        "THRIFTSERVE_PORT": "9090",
        "THRIFTSERVE_BACKEND": "10.0.0.1:1",
        "THRIFTSERVE_CONFIG": "/none.toml",
        "THRIFTSERVE_GATEWAY_PORT": "8502",
        "THRIFTSERVE_GATEWAY_PORT_8501_TCP": "tcp://10.0.0.7:8501",
    }
    effective = gather(GatewaySettings, environ=environ)
    assert effective.settings == GatewaySettings(port=8502)
    assert effective.origins["port"] == "environment variable THRIFTSERVE_GATEWAY_PORT"
    with pytest.raises(ConfigError, match="did you mean THRIFTSERVE_GATEWAY_BACKEND"):
        gather(GatewaySettings, environ={"THRIFTSERVE_GATEWAY_BACKENT": "x"})
    with pytest.raises(ConfigError, match=r"file /none\.toml"):
        gather(GatewaySettings, environ={"THRIFTSERVE_GATEWAY_CONFIG": "/none.toml"})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("prot = 1", ["prot = 1", "no such setting", "did you mean port?"]),
        ("zzz = 1", ["zzz = 1", "no such setting", "docs/reference/settings.md"]),
        ('port = "9090"', ["port is '9090'", "must be a whole number"]),
        ("port = true", ["port is True", "must be a whole number"]),
        ("port = 1.5", ["port is 1.5", "must be a whole number"]),
        ("port = 65536", ["port is 65536", "must lie between 0 and 65535"]),
        ('read_timeout_s = "1"', ["read_timeout_s is '1'", "must be a number"]),
        ("read_timeout_s = inf", ["read_timeout_s is inf", "must be a number"]),
        ("warmup = 1", ["warmup is 1", "must be true or false"]),
        ("host = 1", ["host is 1", "must be text"]),
        ('model = "a=/a"', ["model is 'a=/a'", "must be a list of text"]),
        ("model = [1]", ["model is [1]", "must be a list of text"]),
        ('server_type = "TFast"', ["server_type is 'TFast'", "must be one of TSimpleServer, "]),
        ('models = ["a"]', ["models is ['a']", "must be a table"]),
        ("[models]\na = 1", ["models.a is 1", 'a = "BASE_PATH"']),
        ("port = = 1", ["not TOML", "line 1"]),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    """The message about a file names the file, the key, the value and the remedy."""
    config = toml(tmp_path, text)
    message = error_of(config=config)
    assert message.startswith(f"file {config}: ")
    for part in parts:
        assert part in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message names a file that can't be read, and one that is not text."""
    message = error_of(config=str(tmp_path / "none.toml"))
    assert "none.toml: No such file or directory" in message
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in error_of(config=str(tmp_path / "binary.toml"))


@pytest.mark.parametrize(
    ("variable", "text", "parts"),
    [
        ("THRIFTSERVE_PROT", "1", ["THRIFTSERVE_PROT=1", "did you mean THRIFTSERVE_PORT?"]),
        ("THRIFTSERVE_PORT", "http", ["THRIFTSERVE_PORT", "port is 'http'", "must be a whole number"]),
        ("THRIFTSERVE_THREADS", "0", ["THRIFTSERVE_THREADS", "threads is 0", "must be 1 or more"]),
        ("THRIFTSERVE_WARMUP", "maybe", ["warmup is 'maybe'", "must be true or false"]),
        ("THRIFTSERVE_READ_TIMEOUT_S", "nan", ["read_timeout_s is nan", "must be a number"]),
        ("THRIFTSERVE_IDLE_TIMEOUT_S", "0", ["idle_timeout_s is 0.0", "must be more than 0"]),
        ("THRIFTSERVE_DEVICES", "gpu", ["devices is 'gpu'", "must be cpu, auto, or a list"]),
    ],
)
def test_mistakes_in_the_environment(variable: str, text: str, parts: list[str]) -> None:
    """The message about the environment names the variable, the value and the remedy."""
    message = error_of(environ={variable: text})
    assert message.startswith("environment variable ")
    for part in parts:
        assert part in message


def test_mistakes_in_flags() -> None:
    """The message names a flag out of range, or one that is empty (an unset variable in a script)."""
    assert error_of(flags=parsed("--port", "70000")).startswith("flag --port: port is 70000: ")
    assert error_of(flags=parsed("--tls-cert", "")) == "flag --tls-cert: tls_cert is '': must not be empty"
    assert "must not be empty" in error_of(flags=parsed("--model", ""))


def test_settings_that_contradict_each_other() -> None:
    """A key or a client authority without a certificate is an error, not a server without TLS."""
    assert "without tls_cert" in error_of(flags=parsed("--tls-key", "k.pem"))
    assert "without tls_cert" in error_of(flags=parsed("--tls-client-ca", "ca.pem"))


def test_settings_made_in_code_are_checked() -> None:
    """Settings made in code are checked, too."""
    with pytest.raises(ConfigError, match="port is -1: must lie between 0 and 65535"):
        HostSettings(port=-1)
    with pytest.raises(ConfigError, match="threads is '4': must be a whole number"):
        HostSettings(threads="4")  # type: ignore[arg-type]  # the mistake under test


def test_worker_processes_follow_the_server_type() -> None:
    """Only TProcessPoolServer and TBatchingServer, the default, have several workers."""
    assert HostSettings(server_type="TProcessPoolServer", workers=3).worker_processes == 3
    assert HostSettings(workers=3) == HostSettings(server_type="TBatchingServer", workers=3)
    assert HostSettings(workers=3).worker_processes == 3
    assert HostSettings(server_type="TThreadedServer", workers=3).worker_processes == 1


def test_every_setting_says_its_unit() -> None:
    """A setting whose name ends in a unit also declares it, and every setting has help."""
    for setting in settings_of(ServeSettings):
        assert setting.info.help
        assert setting.info.group
        if setting.name.endswith("_s"):
            assert setting.info.unit == "seconds", setting.name
        if setting.name.endswith("_bytes"):
            assert setting.info.unit == "bytes", setting.name


def test_the_page_is_what_the_code_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/reference/settings.md is the generated page. Other content, or no file, fails the check with the remedy."""
    assert docs_main(["--check", str(ROOT / "docs/reference/settings.md")]) == 0
    stale = tmp_path / "settings.md"
    stale.write_text(page() + "more", encoding="utf-8")
    assert docs_main(["--check", str(stale)]) == 1
    assert "make docs" in capsys.readouterr().err
    assert docs_main(["--check", str(tmp_path / "none.md")]) == 1


def test_the_page_has_every_setting() -> None:
    """Every setting has a row with its help."""
    text = page()
    for setting in settings_of(ServeSettings):
        assert f"| `{setting.name}` |" in text
        assert setting.info.help in text


def test_help_shows_defaults() -> None:
    """A flag's help ends in its default, where it has setting."""
    by_name = {setting.name: setting for setting in settings_of(ServeSettings)}
    assert help_text(by_name["port"]).endswith("(default: 9090)")
    assert help_text(by_name["warmup"]).endswith("(default: true)")
    assert "default:" not in help_text(by_name["tls_cert"])


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"server_type": "TNonblockingServer"}, "TNonblockingServer"),
        ({}, "TBatchingServer"),
        ({"server_type": "TThreadedServer", "protocol": "header"}, "protocol=header"),
    ],
)
def test_a_transport_that_is_not_there(settings: dict[str, str], needs: str) -> None:
    """The buffered transport is refused where there are frames only, before anything starts."""
    with pytest.raises(ConfigError, match=f"transport is 'buffered', but {needs} has the framed transport only"):
        HostSettings(transport="buffered", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        (HostSettings(server_type="TThreadedServer", threads=4, max_connections=5), ("threads=4",)),
        (HostSettings(server_type="TThreadPoolServer", threads=4, transport="buffered"), ()),
        (HostSettings(server_type="TNonblockingServer", spin_us=0), ("spin_us=0",)),
        (HostSettings(fronts=2, max_children=3), ("max_children=3",)),
    ],
)
def test_unused_settings(settings: HostSettings, unused: tuple[str, ...]) -> None:
    """Changed settings that the server type does not use are named; unchanged ones and used ones are not."""
    assert settings.unused() == unused


@pytest.mark.parametrize(
    ("server_type", "name", "uses"),
    [
        ("TForkingServer", "max_children", True),
        ("TThreadedServer", "max_children", False),
        ("TThreadedServer", "read_timeout_s", True),
    ],
)
def test_what_a_server_type_uses(server_type: str, name: str, uses: bool) -> None:
    """Some settings are for some types only; every other setting is for all types."""
    assert server_type_uses(server_type, name) is uses
