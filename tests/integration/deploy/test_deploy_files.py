"""deploy/: units, manifests and the Dockerfile, as far as they can be checked without what runs them."""

from __future__ import annotations

import argparse
import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployed import DEPLOY, rendered
from documents import ROOT
from thriftserve.settings import ServeSettings, gather
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.settings.sources import add_flags, given_flags

UNITS = ("systemd/thriftserve.service", "systemd/thriftserve-gateway@.service")
SETTINGS: dict[str, type[Any]] = {"serve": ServeSettings, "gateway": GatewaySettings}


def understood(arguments: list[str]) -> Any:
    """The settings that a command of a file gives; a mistake in it ends the test."""
    cls = SETTINGS[arguments[0]]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, cls)
    flags = given_flags(parser.parse_args(arguments[1:]), cls)
    return gather(cls, flags=flags, environ={}).settings


@pytest.mark.parametrize("name", UNITS)
def test_units_are_fine(name: str, tmp_path: Path) -> None:
    """systemd finds nothing to complain of; without it, each line is a section, a comment or an assignment."""
    made = rendered(name, tmp_path, {})
    if shutil.which("systemd-analyze"):
        instance = made.rename(tmp_path / made.name.replace("@.", "@8501."))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(instance)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, [line for line in done.stderr.splitlines() if "thriftserve" in line]) == (0, [])
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[method-assign, assignment]  # the documented way to keep capitals
    unit.read_string((DEPLOY / name).read_text(encoding="utf-8"))
    service = dict(unit["Service"])
    arguments = service["ExecStart"].replace("%i", "8501").split()[1:]
    found = understood(arguments)
    assert float(service["TimeoutStopSec"]) > float(found.drain_timeout_s)


def test_what_stays_down_is_the_same_everywhere() -> None:
    """The units, supervisor's file and the pages name the same exit codes after which nothing is started again."""
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    unit = (DEPLOY / UNITS[0]).read_text(encoding="utf-8")
    advised, set_ = (re.findall(r"RestartPreventExitStatus=([\d ]+)", text) for text in (page, unit))
    supervisor = configparser.RawConfigParser(comment_prefixes=(";",))
    supervisor.read(DEPLOY / "supervisord.conf", encoding="utf-8")
    codes = supervisor["program:node"]["exitcodes"].split(",")
    assert advised == set_ == [" ".join(codes[1:])] and codes[0] == "0"
    words = f"exit codes {', '.join(codes[1:-1])} and {codes[-1]}"
    assert words in (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8")


def containers(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each container of a manifest with the pod that it belongs to."""
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text(encoding="utf-8")))
    assert all({"apiVersion", "kind", "metadata"} <= set(one) for one in documents)
    pods = [one["spec"]["template"]["spec"] for one in documents if one["kind"] in ("Deployment", "StatefulSet")]
    return [(one, pod) for pod in pods for one in pod["containers"]]


@pytest.mark.parametrize("name", ["node.yaml", "gateway.yaml"])
def test_manifests_probe_and_drain(name: str) -> None:
    """Every container has its probes, its arguments are ours, and its pod waits longer than it drains."""
    ((container, pod),) = containers(name)
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    found = understood(container["args"])
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > found.drain_timeout_s + pause
    assert found.host == "0.0.0.0"
    assert [one["containerPort"] for one in container["ports"]] == [found.port]


def test_services_find_their_pods() -> None:
    """Each service selects what its deployment labels, and its port is one that the container names."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        every = {one["kind"]: one for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))}
        pods = (every.get("Deployment") or every["StatefulSet"])["spec"]
        labels = pods["template"]["metadata"]["labels"]
        assert every["Service"]["spec"]["selector"] == labels == pods["selector"]["matchLabels"]
        names = {port["name"] for one in pods["template"]["spec"]["containers"] for port in one["ports"]}
        assert {one["targetPort"] for one in every["Service"]["spec"]["ports"]} <= names


def test_gateways_name_the_nodes_that_there_are() -> None:
    """The addresses that the gateways call are the pods of the nodes' manifest."""
    ((gateway, _),) = containers("gateway.yaml")
    every = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "node.yaml").read_text(encoding="utf-8")))
    (nodes,) = (one for one in every if one["kind"] == "StatefulSet")
    name, service = nodes["metadata"]["name"], nodes["spec"]["serviceName"]
    backends = ",".join(f"{name}-{number}.{service}:9090" for number in range(nodes["spec"]["replicas"]))
    assert f"--backend={backends}" in gateway["args"]


def test_the_dockerfile_copies_what_there_is() -> None:
    """Each instruction is one that there is, sources exist, extras are ours, the last stage runs as nobody special."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    known = {"FROM", "WORKDIR", "COPY", "ARG", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in lines} <= known
    copied = [rest.split()[:-1] for word, rest in lines if word == "COPY" and not rest.startswith("--from")]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []
    (extras,) = (rest.removeprefix("EXTRAS=") for word, rest in lines if word == "ARG")
    listed = configparser.ConfigParser()
    listed.read(ROOT / "setup.cfg")
    assert set(extras.split(",")) <= set(listed["options.extras_require"])
    assert ["USER", "10001"] in lines[[word for word, _ in lines].index("USER") :]


def test_supervisor_waits_longer_than_a_drain() -> None:
    """What supervisor may kill has had its time, and the exit codes that it leaves alone are those of mistakes."""
    config = configparser.RawConfigParser()
    config.read(DEPLOY / "supervisord.conf")
    for name in ("program:node", "program:gateway"):
        words = config[name]["command"].replace("909%(process_num)d", "9091").replace("850%(process_num)d", "8501")
        found = understood(words.split()[1:])
        assert config[name].getint("stopwaitsecs") > found.drain_timeout_s
        assert set(config[name]["exitcodes"].split(",")) <= {"0", "2", "4", "5"}


def test_the_settings_file_is_understood() -> None:
    """Every key of the nodes' file is a setting."""
    settings = gather(ServeSettings, environ={}, config=str(DEPLOY / "thriftserve.toml")).settings
    assert settings.model == ("digits=/srv/models/digits",)
