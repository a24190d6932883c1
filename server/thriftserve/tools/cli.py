"""Which module carries out a command of `thriftserve model`; imported when it is asked for.

Namespace  -->  check_command | convert_command | record_command | tune.command  -->  exit code
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

_MODULES = {
    "check": "thriftserve.tools.check",
    "convert": "thriftserve.tools.convert",
    "record": "thriftserve.tools.record",
    "tune": "thriftserve.tools.tune",
}


def run(flags: argparse.Namespace) -> int:
    """Carries out a command.

    Returns:
        The exit code.

    Raises:
        StartError: a flag or the model is wrong.
    """
    command: Callable[[argparse.Namespace], int] = importlib.import_module(_MODULES[flags.model_command]).run
    return command(flags)
