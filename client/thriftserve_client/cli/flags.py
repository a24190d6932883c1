"""The flags of thriftserve-client.

argv + THRIFTSERVE_HOST, THRIFTSERVE_PORT, THRIFTSERVE_CONTROL_TOKEN_FILE --> Namespace
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import NoReturn

from thriftserve_client.client import TRANSPORTS
from thriftserve_client.wire.protocols import DEFAULT_MAX_MESSAGE_BYTES, PROTOCOLS

_ABOUT = """\
Call a thriftserve server.

examples:
  thriftserve-client ping
  thriftserve-client --host model-1 --port 9090 status
  thriftserve-client metadata half_plus_two
  thriftserve-client predict half_plus_two --input 'x=[1, 2, 5]'
  thriftserve-client classify digits scan-1.png scan-2.png --top-k 3
"""

_EXIT_CODES = """\
exit codes:
  0 done   1 the server replied with an error   2 wrong usage, input or file
  3 no connection   4 no reply in time   130 interrupted
"""

_PREDICT = """\
Run a signature of a model.

An input is NAME=VALUE, once for each input of the signature:
  x=[1, 2, 5]        JSON, converted to the input's type in the model's metadata
  x=@values.json     JSON from a file
  x=photo.npy        an array from numpy.save, in its own type
  @inputs.npz        several arrays from numpy.savez, by name

examples:
  thriftserve-client predict half_plus_two --input 'x=[1, 2, 5]'
  thriftserve-client predict text --input 'words=[["what", "a", "day"]]' --input 'nwords=[3]' --output labels
  thriftserve-client predict saliency --input img_in=photo.npy --save out.npz
  thriftserve-client predict mobilenet --label canary --input images=batch.npy --json
"""

_CLASSIFY = """\
Print the best classes of image files (JPEG, PNG, GIF, BMP, WebP, TIFF). The server decodes them.

example:
  thriftserve-client classify digits scan-1.png scan-2.png --top-k 3
"""

_DETECT = """\
Find objects in image files (JPEG, PNG, GIF, BMP, WebP, TIFF). The server decodes them.

example:
  thriftserve-client detect street crossing.jpg --min-score 0.6
"""

_LOAD = """\
Serve a model from a base path on the server, or packed (tar, tar.gz, zip) from a URL. The previous version serves
until the new one is ready. The command ends when the server has begun; with --watch it ends when the server is done,
with exit code 0 if the version serves and 1 if it can't be fetched or loaded.

examples:
  thriftserve-client --port 9091 load digits /models/digits --version 42
  thriftserve-client --port 9091 load digits https://models.example/digits-43.tar.gz --sha256 9f86d0… --watch
"""

_PING = """\
Check that a request sent now would be run: a worker has its models, and is not stuck.

example:
  thriftserve-client ping --wait 60
"""
_METADATA = """\
Print a model's labels and signatures: names, element types and shapes of inputs and outputs.

example:
  thriftserve-client metadata half_plus_two --version 123
"""


class UsageError(Exception):
    """The command line is wrong; the message says what is expected."""


class _Parser(ArgumentParser):
    """A parser that prints errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help shows examples)\n")


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line; `command` is a key of `commands.COMMANDS` or `commands.CONTROL_COMMANDS`."""
    parser = _Parser(
        prog="thriftserve-client",
        usage="%(prog)s [options] COMMAND …",
        description=_ABOUT,
        epilog=_EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    _connection_flags(parser, suppress=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, about: str = "", operands: str = "") -> ArgumentParser:
        command = commands.add_parser(
            name,
            prog=f"thriftserve-client {name}",
            usage=f"%(prog)s {operands}[options]",
            help=summary,
            description=about or summary,
            formatter_class=RawDescriptionHelpFormatter,
        )
        # The same flags after the command's name; defaults there would override flags before it.
        _connection_flags(command, suppress=True)
        return command

    ping = add("ping", "check that a request sent now would be run", _PING)
    ping.add_argument("--wait", type=_seconds, metavar="S", help="wait until it would be, for S seconds at most")
    status = add("status", "show the server and its workers")
    status.add_argument("--watch", action="store_true", help="keep printing every model's versions when they change")
    add("models", "show every model's versions and their states")
    _version_flags(_model(add("metadata", "show a model's inputs, outputs and labels", _METADATA, "MODEL ")))
    _predict_flags(_version_flags(_model(add("predict", "run a model on arrays or JSON", _PREDICT, "MODEL "))))
    classify = _version_flags(_images(add("classify", "classify image files", _CLASSIFY, "MODEL IMAGE… ")))
    classify.add_argument("--top-k", type=_whole_number(1), help="classes per image (default: 5)")
    detect = _version_flags(_images(add("detect", "find objects in image files", _DETECT, "MODEL IMAGE… ")))
    detect.add_argument("--min-score", type=float, help="leave out boxes below this score (default: 0.5)")
    detect.add_argument("--max-detections", type=_whole_number(1), help="boxes per image (default: 100)")
    _control_flags(add)
    return parser.parse_args(argv)


def _control_flags(add: Callable[..., ArgumentParser]) -> None:
    """Add the commands for the control port."""
    load = _model(_guarded(add("load", "serve a model from a base path or a URL", _LOAD, "MODEL SOURCE ")))
    load.add_argument("source", metavar="SOURCE", help="its absolute base path on the server, or its URL")
    load.add_argument(
        "--version",
        type=int,
        help="version to serve (default: the newest); for a URL its number (default: the next one)",
    )
    load.add_argument("--sha256", metavar="HEX", help="expected SHA-256 of the download")
    load.add_argument("--watch", action="store_true", help="show the progress until it serves or has failed")
    unload = _model(_guarded(add("unload", "stop serving a model, or a version", "", "MODEL ")))
    unload.add_argument("--version", type=int, help="only this version")
    label = _model(_guarded(add("label", "point a label at a version, or remove it", "", "MODEL LABEL [VERSION] ")))
    label.add_argument("label", metavar="LABEL", help="such as stable or canary")
    label.add_argument("to_version", metavar="VERSION", type=int, nargs="?", help="if left out, the label is removed")
    label.add_argument(
        "--allow-unavailable", action="store_true", help="let a new label point at a version that is not available"
    )
    _guarded(add("reload", "read the configuration again, as SIGHUP does"))


def _guarded(parser: ArgumentParser) -> ArgumentParser:
    parser.description = f"{parser.description}\n\nIt needs the server's control port: set --port."
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        default=os.environ.get("THRIFTSERVE_CONTROL_TOKEN_FILE"),
        help="file with the server's control token; also THRIFTSERVE_CONTROL_TOKEN_FILE",
    )
    return parser


def _connection_flags(parser: ArgumentParser, *, suppress: bool) -> None:
    group = parser.add_argument_group("connection and output")

    def add(name: str, default: object, text: str, **options: object) -> None:
        default_text = "" if default in (None, False) else f" (default: {default})"
        group.add_argument(
            name,
            default=SUPPRESS if suppress else default,
            help=text + default_text,
            **options,  # type: ignore[arg-type]  # argparse's own keywords
        )

    add("--host", os.environ.get("THRIFTSERVE_HOST", "127.0.0.1"), "the server's host; also THRIFTSERVE_HOST")
    add(
        "--port",
        os.environ.get("THRIFTSERVE_PORT", "9090"),
        "the server's port; also THRIFTSERVE_PORT",
        type=_whole_number(1, 65535),
    )
    add("--unix-socket", None, "the server's Unix socket, instead of host and port", metavar="PATH")
    add("--transport", "framed", "as on the server", choices=TRANSPORTS)
    add("--protocol", "binary", "as on the server", choices=PROTOCOLS)
    add("--timeout-s", 30.0, "limit on a call, in seconds", type=_seconds)
    add("--max-message-bytes", DEFAULT_MAX_MESSAGE_BYTES, "limit on a request or reply", type=_whole_number(1))
    add("--tls", False, "use TLS, and trust the system's authorities", action="store_true")
    add("--tls-ca", None, "use TLS, and trust the authorities in this PEM file", metavar="FILE")
    add("--tls-cert", None, "this client's certificate (mutual TLS)", metavar="FILE")
    add("--tls-key", None, "the certificate's key, if it is not in the same file", metavar="FILE")
    add("--tls-server-name", None, "the name in the server's certificate, if it is not the host", metavar="NAME")
    add("--json", False, "print JSON, for programs", action="store_true")


def _model(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("model", metavar="MODEL", help="name of the model on the server")
    return parser


def _images(parser: ArgumentParser) -> ArgumentParser:
    _model(parser).add_argument("images", metavar="IMAGE", nargs="+", help="image files, sent as one request")
    parser.add_argument("--signature", metavar="NAME", help='name of the signature (default: "serving_default")')
    return parser


def _version_flags(parser: ArgumentParser) -> ArgumentParser:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--version", type=int, help="number of the version (default: the newest)")
    group.add_argument("--label", help="the version that this label points at")
    return parser


def _predict_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--input", dest="inputs", metavar="NAME=VALUE", action="append", default=[], help="an input; see above"
    )
    parser.add_argument(
        "--output", dest="outputs", metavar="NAME", action="append", help="return only this output; repeatable"
    )
    parser.add_argument("--signature", metavar="NAME", help='name of the signature (default: "serving_default")')
    parser.add_argument("--save", metavar="PATH", help="write the outputs: FILE.npz, or a directory for one .npy each")
    parser.add_argument("--request-id", metavar="TEXT", help="appears in the server's log lines about this request")


def _whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    expected = f"a whole number from {low}" + (f" to {high}" if high else " up")

    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < low or (high and int(text) > high):
            raise ArgumentTypeError(f"{text!r} is not {expected}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
