"""The flags of `thriftserve model`, and the module that runs each command. Nothing heavy is imported for them.

argv  --add_to-->  Namespace(model_command="check", …)  --run-->  check | convert | record | tune  -->  exit code
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from typing import Any

OBJECTIVES = ("throughput", "latency")
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)

_CHECK = """\
Loads a model in a process of its own, prints its signatures, runs each with zeros at batch 1 and 2, and says in
words what is wrong: parts that are missing or cut off, operations that this TensorFlow lacks, no signature to serve.
A Python model (./greet.py:Greeter, python:package.module:Class) runs with its own example, if it has one.

exit codes:
  0 it can be served   2 wrong usage   4 it can't be served
"""

_CONVERT = """\
Turns what training wrote into a SavedModel:

  a checkpoint of TensorFlow 1.x with its meta graph (NAME.meta, NAME.index, NAME.data-…), by its NAME; --input and
  --output name the tensors that requests feed and fetch; without them the choice is shown
  a Keras file (.keras, .h5)

examples:
  thriftserve model convert model.ckpt-1000 /models/digits/1 --input x=x:0 --output scores=softmax:0
  thriftserve model convert digits.keras /models/digits/2
"""

_RECORD = """\
Adds a request to a version's warm-up file, assets.extra/tf_serving_warmup_requests. The server runs it before it
serves the version; so does TensorFlow Serving.

An input is NAME=VALUE, as for thriftserve-client predict: x=[1, 2, 5], x=@values.json, x=photo.npy, @inputs.npz.

example:
  thriftserve model record /models/digits/2 --input image=scan.npy --output scores
"""

_TUNE = """\
Measures a model on this machine, and writes the settings that suit it best into its model.toml.
`thriftserve serve` uses them unless a flag says otherwise.

It tries worker processes x runs in flight in each x threads inside one operation, each at several batch sizes: all
of them briefly, then the best ones again and longer. Other load on the machine spoils the result. Ctrl-C ends it
early, shows what was measured, and writes nothing.

examples:
  most rows a second, on all cores:
    thriftserve model tune /models/digits

  the shortest time of one run, without writing:
    thriftserve model tune /models/digits --objective latency --dry-run

  two batch sizes measured with care, on two GPUs:
    thriftserve model tune /models/digits --batch-sizes 8,32 --seconds 5 --budget-s 600 --devices gpu:0,gpu:1
"""


def add_to(commands: Any) -> Mapping[str, argparse.ArgumentParser]:
    """Add `model` and its commands to the parser's commands; return their parsers by name."""
    model = commands.add_parser("model", help="check, convert or tune a model, or record requests for it")
    below = model.add_subparsers(dest="model_command", metavar="COMMAND", title="commands", required=True)
    return {
        "check": _add_check(_parser(below, "check", "say whether a model can be served, and what is wrong", _CHECK)),
        "convert": _add_convert(
            _parser(below, "convert", "make a SavedModel of a checkpoint or a Keras file", _CONVERT)
        ),
        "record": _add_record(_parser(below, "record", "add a request to a version's warm-up file", _RECORD)),
        "tune": _add_tune(
            _parser(below, "tune", "measure a model on this machine and write the settings that suit it", _TUNE)
        ),
    }


def run(flags: argparse.Namespace) -> int:
    """Run a command, and return the exit code.

    Raises:
        StartError: A flag or the model is wrong.
    """
    module = importlib.import_module(f"thriftserve.tools.{flags.model_command}")
    command: Callable[[argparse.Namespace], int] = module.run
    return command(flags)


def _parser(below: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = below.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _add_check(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "path", metavar="PATH", help="a version, a base path (its newest version is checked), or FILE.py:CLASS"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="the longest that it may load and run (300)")
    return parser


def _add_convert(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint's NAME, or a .keras or .h5 file")
    parser.add_argument("target", metavar="TARGET", help="the version directory to make: BASE_PATH/NUMBER")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=TENSOR", help="what requests feed")
    parser.add_argument("--output", action="append", default=[], metavar="NAME=TENSOR", help="what they fetch")
    parser.add_argument("--signature", default="serving_default", help="the signature's name (serving_default)")
    return parser


def _add_record(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("path", metavar="PATH", help="a version, or a base path: its newest version is meant")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=VALUE", help="once for each input")
    parser.add_argument("--signature", default="serving_default", help="the signature to call (serving_default)")
    parser.add_argument("--output", action="append", default=[], metavar="NAME", help="an output wanted (all)")
    parser.add_argument("--replace", action="store_true", help="drop the requests that the file has so far")
    return parser


def _add_tune(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    sizes = ",".join(map(str, _BATCH_SIZES))
    parser.add_argument("path", metavar="PATH", help="the model's base path: its newest version is measured")
    parser.add_argument("--objective", choices=OBJECTIVES, default="throughput", help="what is best (throughput)")
    parser.add_argument("--seconds", type=float, default=1.0, help="the longest that one combination is run (1)")
    parser.add_argument("--budget-s", type=float, default=120.0, help="start nothing new after so many seconds (120)")
    parser.add_argument("--batch-sizes", default=sizes, help="rows a run, a list (%(default)s)")
    parser.add_argument("--signature", help="the signature to call (serving_default, else the model's only one)")
    parser.add_argument("--devices", default="auto", help="cpu, auto or a list like gpu:0,gpu:1 (auto)")
    parser.add_argument("--dry-run", action="store_true", help="show the settings; write nothing")
    return parser
