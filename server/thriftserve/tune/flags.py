"""The flags of `thriftserve model tune`. Nothing heavy is imported for them.

argv  --add_to-->  Namespace  -->  command.run
"""

from __future__ import annotations

import argparse
from typing import Any

OBJECTIVES = ("throughput", "latency")
_ROWS = (1, 2, 4, 8, 16, 32, 64)

_DESCRIPTION = """\
Measures a model on this machine, and writes the settings that suit it best into its model.toml, where
`thriftserve serve` takes them up unless a flag says otherwise.

Tried are worker processes x runs in flight in each x threads inside one operation, each at several batch sizes:
all of them briefly, the best ones again and longer. A busy machine spoils it. Ctrl-C ends it early, shows what was
measured, and writes nothing.
"""

_EXAMPLES = """\
examples:
  most rows a second, on all cores:
    thriftserve model tune /models/digits

  the shortest time of one run, and only look:
    thriftserve model tune /models/digits --objective latency --dry-run

  a careful look at two batch sizes, on two GPUs:
    thriftserve model tune /models/digits --batch-sizes 8,32 --seconds 5 --budget-s 600 --devices gpu:0,gpu:1
"""


def add_to(below: Any) -> argparse.ArgumentParser:
    """Adds `tune` to the commands below `model`; gives back its parser."""
    tune: argparse.ArgumentParser = below.add_parser(
        "tune",
        help="measure a model on this machine and write the settings that suit it",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    tune.add_argument("path", metavar="PATH", help="the model's base path: its newest version is measured")
    tune.add_argument("--objective", choices=OBJECTIVES, default="throughput", help="what is best (throughput)")
    tune.add_argument("--seconds", type=float, default=1.0, help="the longest that one combination is run (1)")
    tune.add_argument("--budget-s", type=float, default=120.0, help="start nothing new after so many seconds (120)")
    tune.add_argument("--batch-sizes", default=",".join(map(str, _ROWS)), help="rows a run, a list (%(default)s)")
    tune.add_argument("--signature", help="what is called (serving_default, else the model's only one)")
    tune.add_argument("--devices", default="auto", help="cpu, auto or a list like gpu:0,gpu:1 (auto)")
    tune.add_argument("--dry-run", action="store_true", help="show the settings; write nothing")
    return tune
