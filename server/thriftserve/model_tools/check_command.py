"""`thriftserve model check PATH`: what is wrong with a model, or that nothing is.

PATH  --its files' own word-->  --a process that loads and runs it-->  Findings  -->  table | JSON, exit code
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from thriftserve.errors import ConfigError, ExitCode
from thriftserve.model_tools.findings import Findings, lines
from thriftserve.model_tools.version_path import version_of
from thriftserve.models import completeness
from thriftserve.models.wire_fields import Damaged

#: The end of what a process said before it died, in characters.
_LAST_WORDS = 400


def run(flags: argparse.Namespace) -> int:
    """Checks a model and prints what was found.

    Returns:
        0, or that of a model that can't be loaded.

    Raises:
        StartError: the path or a flag is wrong.
    """
    if not flags.timeout_s > 0:
        raise ConfigError(f"timeout_s is {flags.timeout_s:g}: it must be above 0")
    found = check(version_of(flags.path), flags.timeout_s)
    print(json.dumps(found.as_json(), indent=2) if flags.json else "\n".join(lines(found)))
    return ExitCode.OK if found.good else ExitCode.MODEL_LOAD


def check(version: Path, timeout_s: float) -> Findings:
    """What there is to be found about a version directory."""
    fault = _missing(version)
    if fault:
        return Findings(str(version), [fault])
    with tempfile.TemporaryDirectory(prefix="thriftserve-check-") as scratch:
        answer = Path(scratch) / "findings.json"
        command = [sys.executable, "-m", "thriftserve.model_tools.check_child", str(version), str(answer)]
        try:
            done = subprocess.run(
                command,
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Findings(str(version), [f"it was not loaded and run within {timeout_s:g} s (--timeout-s)"])
        if not answer.exists() or done.returncode:
            return Findings(str(version), [_death(done)])
        return Findings(**json.loads(answer.read_text(encoding="utf-8")))


def _missing(version: Path) -> str | None:
    try:
        return completeness.fault(version, completeness.look(version))
    except (OSError, Damaged) as error:
        return str(error)


def _death(done: subprocess.CompletedProcess[str]) -> str:
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    return f"the process that loaded it ended with {how}: {done.stderr.strip()[-_LAST_WORDS:] or 'it said nothing'}"
