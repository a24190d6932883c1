"""`thriftserve-bench http`: flags, progress, files.

argv  -->  HttpSettings  -->  measure_http, a bar with the time left  -->  FILE.json and Markdown

Ctrl-C ends the measuring and keeps what there is.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from thriftserve_bench.benchmark import progress_bar
from thriftserve_bench.benchmarks.http.runner import (
    HttpFailed,
    HttpSettings,
    measure_http,
    new_run,
    usual_gateways,
    usual_gunicorn_workers,
)
from thriftserve_bench.benchmarks.http.stacks import STACKS
from thriftserve_bench.processes import ServerFailed
from thriftserve_bench.records.http import HttpRun
from thriftserve_bench.report.http import show
from thriftserve_bench.report.http_figures import pairs
from thriftserve_bench.servers.environments import default_cache

_DESCRIPTION = """\
Measures two ways to serve a text model over HTTP, side by side on this machine:

  published   nginx --> gunicorn, Flask --gRPC--> a gRPC server that runs the SavedModel with TensorFlow
  ours        nginx --> thriftserve gateway --Thrift--> thriftserve serve

Both are up at once and asked the same by ab, in turns, with new connections and with kept ones; before that, their
answers are compared. TensorFlow Serving's own binary is in no Python package, so the published stack's model server
is one in Python: its users' usual one, and slower than that binary.

Then, alone, the CPU that an image costs the gateway's process: as application/octet-stream, .npy, image/jpeg and JSON
lists, beside the standard library's json.

ab and nginx are Debian's packages apache2-utils and nginx-light. Flask, gunicorn and grpcio are installed
from PyPI into an environment of their own, in the cache directory. What can't be had is left out, and said.
"""
_EPILOG = """\
to see that it works:          thriftserve-bench http --quick
the comparison alone:          thriftserve-bench http --body-requests 0
images alone:                  thriftserve-bench http --stacks none
more gateways behind nginx:    thriftserve-bench http --gateways 2
the table of an earlier run:   thriftserve-bench report http.json

A row says: so many requests at a time; whether ab kept its connections; then each figure of both. CPU is that of all
the stack's processes, a request; where a stack uses all cores, it decides the rate.
"""
_DEFAULTS = HttpSettings()
_QUICK: dict[str, Any] = {"rounds": 1, "requests": 500, "body_requests": 50}
_NONE = "none"
_KEPT = {"new": (False,), "kept": (True,), "both": (False, True)}
_INTERRUPTED = 130


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "http",
        help="our gateway beside nginx, gunicorn, Flask and gRPC, by ab; what an image costs it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stacks", type=_words, metavar="LIST", help=f"some of {','.join(STACKS)} (all), or {_NONE}")
    add("--concurrency", type=_counts, metavar="LIST", help="requests at a time (1,10,100)")
    add("--connections", choices=sorted(_KEPT), default="both", help="ab's: a new one each request, or kept (both)")
    add("--rounds", type=int, help=f"windows of each stack in a cell ({_DEFAULTS.rounds})")
    add("--requests", type=int, help=f"of one window ({_DEFAULTS.requests})")
    add("--gunicorn-workers", type=int, metavar="N", help="Flask's processes (2 x cores + 1, as gunicorn advises)")
    add("--gateways", type=int, metavar="N", help="processes of ours behind nginx (cores / 2, at least 1)")
    add("--spin-us", type=int, metavar="N", help=f"of our server, awake for what comes at once ({_DEFAULTS.spin_us})")
    add("--no-nginx", dest="nginx", action="store_false", help="ask gunicorn, and one gateway, directly")
    add("--body-requests", type=int, metavar="N", help=f"of one window of images; 0: none ({_DEFAULTS.body_requests})")
    add("--quick", action="store_true", help="one short round: to see that it works")
    add("--cache", type=Path, default=default_cache(), metavar="DIR", help="Flask's environment (%(default)s)")
    add("--output", type=Path, default=Path("http.json"), metavar="FILE", help="raw results (http.json)")
    parser.set_defaults(run=run)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in text.split(",") if word))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def settings_of(flags: argparse.Namespace) -> HttpSettings:
    """The settings that the flags ask for.

    Raises:
        ValueError: one is of no use; the message names the flag.
    """
    told: dict[str, Any] = {"gunicorn_workers": usual_gunicorn_workers(), "gateways": usual_gateways()}
    told |= _QUICK if flags.quick else {}
    for name in (
        "stacks",
        "concurrency",
        "rounds",
        "requests",
        "gunicorn_workers",
        "gateways",
        "body_requests",
        "spin_us",
    ):
        if (value := getattr(flags, name)) is not None:
            told[name] = value
    if told.get("stacks") == (_NONE,):
        told["stacks"] = ()
    for name in told.get("stacks", ()):
        if name not in STACKS:
            raise ValueError(f"--stacks: there is no {name!r}; use some of {', '.join(STACKS)}, or {_NONE}")
    settings = replace(_DEFAULTS, nginx=flags.nginx, kept=_KEPT[flags.connections], **told)
    for name in ("rounds", "requests", "gunicorn_workers", "gateways"):
        if getattr(settings, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0")
    if not settings.concurrency or min(settings.concurrency) < 1:
        raise ValueError("--concurrency must be numbers above 0")
    if settings.gateways > 1 and not settings.nginx:
        if flags.gateways is not None:
            raise ValueError("--gateways: several need nginx before them: leave out --no-nginx")
        settings = replace(settings, gateways=1)
    return settings


def run(flags: argparse.Namespace) -> int:
    """Measures, writes and shows; 1 where ours failed or nothing was measured."""
    try:
        settings = settings_of(flags)
    except ValueError as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    console = Console(stderr=True)
    kept = new_run(settings)
    code = _measure(settings, flags.cache, kept, console)
    for name, reason in kept.skipped.items():
        console.print(f"left out: {name}: {reason.splitlines()[0]}", highlight=False, markup=False)
    if not (kept.cells or kept.bodies):
        console.print("nothing was measured")
        return code or 1
    kept.cut_short = code != 0
    kept.save(flags.output)
    show(kept, Console())
    console.print(f"raw results: {flags.output}   again: thriftserve-bench report {flags.output}", highlight=False)
    return code or int(any(one.ours and one.ours.failed for one in pairs(kept)))


def _measure(settings: HttpSettings, cache: Path, kept: HttpRun, console: Console) -> int:
    try:
        with progress_bar(console) as bar:
            measure_http(settings, cache, kept, bar)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (ServerFailed, HttpFailed) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    return 0
