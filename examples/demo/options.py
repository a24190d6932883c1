"""The demo's command line.

argv  --parse-->  Options
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench.servers import BATCHING, SERVER_TYPES

PROGRAM = "python examples/demo"

_DESCRIPTION = """\
Trains a small convolutional network on scikit-learn's handwritten digits,
starts `thriftserve serve` with it, sends it the digits that were held out as
PNG files, and shows what came back. The model and the files stay in .demo,
so that the next run starts at once.
"""
_EXAMPLES = f"""\
examples:
  {PROGRAM}
  {PROGRAM} --server-type TThreadPoolServer --clients 8
  {PROGRAM} --serve --port 9090

exit codes:
  0 done   1 something failed, or accuracy was under 97 %   2 wrong usage
  130 interrupted
"""


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    server_type: str
    directory: Path
    port: int
    clients: int
    rounds: int
    retrain: bool
    serve: bool

    @property
    def model_path(self) -> Path:
        """Base path of the model."""
        return self.directory / "models" / "digits"

    @property
    def images_path(self) -> Path:
        """Return where the held-out digits are, as PNG files."""
        return self.directory / "digits"


def parse(arguments: Sequence[str] | None) -> Options:
    """Parse a command line; a wrong one ends the program with usage and exit code 2."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--server-type", choices=SERVER_TYPES, default=BATCHING, metavar="T", help=_types_help())
    add("--serve", action="store_true", help="leave the server running in the foreground; send nothing")
    add("--port", type=_number(0, 65535), default=0, help="of the server (default: 0, the kernel picks a free one)")
    add("--clients", type=_number(1, 256), default=4, help="connections that send, a thread each (default: 4)")
    add("--rounds", type=_number(1, 10_000), default=5, help="times that each digit is sent (default: 5)")
    add("--retrain", action="store_true", help="train again, as the model's next version")
    add("--directory", type=Path, default=Path(".demo"), help="of model and files (default: .demo)")
    return Options(**vars(parser.parse_args(arguments)))


def _types_help() -> str:
    return f"one of {', '.join(SERVER_TYPES)} (default: {BATCHING})"


def _number(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return number
