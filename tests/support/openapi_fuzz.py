"""The gateway against requests that schemathesis makes of its own OpenAPI description.

/openapi.json --names of served models put in--> file --schemathesis run--> exit code, report

schemathesis runs as a command of its own: as a plugin it would be loaded into every other test, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gateway_served import Door

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
)
#: What a server may say of itself: a type that no model takes is 501, time that was over 504.
CONFIG = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501", "504"]
"""


def described(door: Door, models: list[str]) -> dict[str, Any]:
    """The description with these models beside whatever text will do: most requests then reach a model."""
    told: dict[str, Any] = door.get("/openapi.json").json()
    for path in told["paths"].values():
        for operation in path.values():
            for one in operation["parameters"]:
                known = {"model": models, "version": [1]}.get(one["name"])
                if known:
                    one["schema"] = {"anyOf": [{"enum": known}, one["schema"]]}
    return told


def run(door: Door, models: list[str], scratch: Path, examples: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Sends requests, so many for each operation and phase; exit code 0: nothing was wrong with any answer."""
    document, config = scratch / "openapi.json", scratch / "schemathesis.toml"
    document.write_text(json.dumps(described(door, models)), encoding="utf-8")
    config.write_text(CONFIG, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", str(document)]
    flags = {
        "--url": f"http://{door.host}:{door.port}",
        "--checks": ",".join(CHECKS),
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": str(examples),
        "--seed": str(seed),
        "--request-timeout": "30",
        "--generation-database": "none",
        "--warnings": "off",
    }
    given = [part for flag in flags.items() for part in flag]
    return subprocess.run(
        [*command, *given, "--no-shrink", "--continue-on-failure", "--no-color"],
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
