"""The flags of `thriftserve model`. Nothing heavy is imported for them.

argv  --add_to-->  Namespace(model_command="check", …)  -->  commands.run
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

# The flags of `thriftserve model tune`. Nothing heavy is imported for them.

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


def add_tune(below: Any) -> argparse.ArgumentParser:
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


_CHECK = """\
Loads a model in a process of its own, prints its signatures, runs each with zeros at batch 1 and 2, and says in
words what is wrong: parts that are missing or cut off, operations that this TensorFlow lacks, no signature to serve.

exit codes:
  0 it can be served   2 wrong usage   4 it can't be served
"""

_CONVERT = """\
Makes a SavedModel of what training wrote:

  a checkpoint of TensorFlow 1.x with its meta graph (NAME.meta, NAME.index, NAME.data-…), by its NAME; the tensors
  that requests feed and fetch are named by --input and --output, and without these the choice is shown
  a Keras file (.keras, .h5)

examples:
  thriftserve model convert model.ckpt-1000 /models/digits/1 --input x=x:0 --output scores=softmax:0
  thriftserve model convert digits.keras /models/digits/2
"""

_RECORD = """\
Adds a request to a version's warm-up file, assets.extra/tf_serving_warmup_requests, which is run before the version
is served; TensorFlow Serving runs it too.

An input is NAME=VALUE, as thriftserve-client predict takes it: x=[1, 2, 5], x=@values.json, x=photo.npy, @inputs.npz.

example:
  thriftserve model record /models/digits/2 --input image=scan.npy --output scores
"""


def add_to(commands: Any) -> Mapping[str, argparse.ArgumentParser]:
    """Adds `model` and its commands to the parser's commands; gives back their parsers by name."""
    model = commands.add_parser("model", help="check, convert or tune a model, or record requests for it")
    below = model.add_subparsers(dest="model_command", metavar="COMMAND", title="commands", required=True)
    return {
        "check": _check(_parser(below, "check", "say whether a model can be served, and what is wrong", _CHECK)),
        "convert": _convert(_parser(below, "convert", "make a SavedModel of a checkpoint or a Keras file", _CONVERT)),
        "record": _record(_parser(below, "record", "add a request to a version's warm-up file", _RECORD)),
        "tune": add_tune(below),
    }


def _parser(below: Any, name: str, told: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = below.add_parser(
        name,
        help=told,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _check(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("path", metavar="PATH", help="a version, or a base path: its newest version is checked")
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON object")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="the longest that it may load and run (300)")
    return parser


def _convert(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint's NAME, or a .keras or .h5 file")
    parser.add_argument("target", metavar="TARGET", help="the version directory to make: BASE_PATH/NUMBER")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=TENSOR", help="what requests feed")
    parser.add_argument("--output", action="append", default=[], metavar="NAME=TENSOR", help="what they fetch")
    parser.add_argument("--signature", default="serving_default", help="the signature's name (serving_default)")
    return parser


def _record(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("path", metavar="PATH", help="a version, or a base path: its newest version is meant")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=VALUE", help="once for each input")
    parser.add_argument("--signature", default="serving_default", help="what is called (serving_default)")
    parser.add_argument("--output", action="append", default=[], metavar="NAME", help="an output wanted (all)")
    parser.add_argument("--replace", action="store_true", help="drop the requests that the file has so far")
    return parser
