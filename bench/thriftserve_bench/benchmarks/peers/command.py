"""`thriftserve-bench peers`: flags, progress, files.

argv  -->  PeersSettings  -->  measure_peers, a bar with the time left  -->  FILE.json and Markdown

Ctrl-C ends the measuring and keeps what there is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from thriftserve_bench.benchmark import progress_bar
from thriftserve_bench.benchmarks.peers.probes import ProbeSettings, raise_descriptor_limit
from thriftserve_bench.benchmarks.peers.runner import PeersFailed, PeersSettings, measure_peers, new_run, ours_failed
from thriftserve_bench.benchmarks.peers.systems import OUR_TYPES, PEER_CONTESTANTS
from thriftserve_bench.load.open_loop import MOST_CONNECTIONS
from thriftserve_bench.processes import ServerFailed, clean_environment, thriftserve_command
from thriftserve_bench.records.peers import PeersRun
from thriftserve_bench.report.peers import show
from thriftserve_bench.servers.environments import PEERS, default_cache
from thriftserve_bench.workloads.jobs import JOBS

_DESCRIPTION = """\
Measures thriftserve beside other ways to serve the same models: Apache Thrift's own classes, grpcio, mosec
and LitServe, and beside no RPC at all. Three jobs: tiny (half_plus_two, three floats), tensor (MobileNetV2,
602 KB of float32) and jpeg (MobileNetV2, a JPEG of 640x480 in, five classes out). The requests differ and
every answer is checked. All servers are up at once and measured in turns; the others are stopped meanwhile.

The peers are installed from PyPI into environments of their own, in the cache directory, over the packages
of this one (TensorFlow is not installed again); one that can't be had is left out, and said. Everything
takes some 10 GB of memory and, with three rounds of 2 s, about ten minutes.
"""
_DEFAULTS = PeersSettings()
_QUICK: dict[str, Any] = {"rounds": 1, "seconds": 0.8}
_NONE = "none"
_INTERRUPTED = 130


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "peers",
        help="ours beside other servers of the same models, and beside no RPC",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ",".join(JOBS)
    families = ",".join(one.name for one in PEERS)
    parser.add_argument("--jobs", type=_words, metavar="LIST", help=f"some of {names} (all)")
    parser.add_argument(
        "--peers",
        type=_words,
        metavar="LIST",
        help=f"some of {families} (all), or of their servers by name, or {_NONE}",
    )
    parser.add_argument("--clients", type=_counts, metavar="LIST", help="clients side by side (each job's own)")
    parser.add_argument("--rounds", type=int, help=f"windows of each server in a cell ({_DEFAULTS.rounds})")
    parser.add_argument("--seconds", type=float, help=f"length of a window ({_DEFAULTS.seconds:g})")
    parser.add_argument("--server-type", action="append", metavar="T", help="of ours; may be given several times")
    parser.add_argument("--ours", default="", metavar="FLAGS", help='more flags of ours: --ours="--workers 1"')
    parser.add_argument("--no-limit", dest="limits", action="store_false", help="leave out the work without RPC")
    parser.add_argument("--fairness", action="store_true", help="also: 64 clients on two workers of ours")
    parser.add_argument(
        "--idle", type=int, default=0, metavar="N", help="also: ours with and without N idle connections"
    )
    parser.add_argument(
        "--overload", type=float, default=0.0, metavar="S", help="also: S seconds of twice what ours carries"
    )
    parser.add_argument("--quick", action="store_true", help="one round of 0.8 s: to see that it works")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), metavar="DIR", help="the peers' environments (%(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("peers.json"), metavar="FILE", help="raw results (peers.json)"
    )
    parser.set_defaults(run=run)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in text.split(",") if word))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def settings_of(flags: argparse.Namespace) -> PeersSettings:
    """The settings that the flags ask for.

    Raises:
        ValueError: one is of no use; the message names the flag.
    """
    told: dict[str, Any] = dict(_QUICK) if flags.quick else {}
    for name in ("rounds", "seconds", "jobs", "clients"):
        if (value := getattr(flags, name)) is not None:
            told[name] = value
    if flags.peers is not None:
        told["peers"] = () if flags.peers == (_NONE,) else flags.peers
    told["server_types"] = tuple(flags.server_type or default_server_types())
    settings = replace(_DEFAULTS, our_flags=flags.ours, limits=flags.limits, **told)
    _check_names("--jobs", settings.jobs, list(JOBS))
    _check_names("--peers", settings.peers, [one.name for one in (*PEERS, *PEER_CONTESTANTS)])
    if settings.rounds < 1 or settings.seconds <= 0 or min((1, *settings.clients)) < 1:
        raise ValueError("--rounds, --seconds and --clients must be above 0")
    probes = ProbeSettings(flags.fairness, flags.idle, flags.overload, settings.seconds)
    return replace(settings, probes=probes)


def _check_names(flag: str, given: tuple[str, ...], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{flag}: there is no {name!r}; use some of {', '.join(known)}")


def default_server_types() -> tuple[str, ...]:
    """TBatchingServer where the server has it, else the two that serve many connections side by side."""
    done = subprocess.run(
        [*thriftserve_command(), "--help"], env=clean_environment(), capture_output=True, text=True, check=False
    )
    return OUR_TYPES[:1] if f"{OUR_TYPES[0]}," in done.stdout or f"{OUR_TYPES[0]}}}" in done.stdout else OUR_TYPES[1:]


def run(flags: argparse.Namespace) -> int:
    """Measures, writes and shows."""
    try:
        settings = settings_of(flags)
    except ValueError as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    raise_descriptor_limit(max(settings.probes.idle, MOST_CONNECTIONS if settings.probes.overload_s else 0))
    console = Console(stderr=True)
    kept = new_run(settings)
    code = _measure(settings, flags.cache, kept, console)
    for name, reason in kept.skipped.items():
        console.print(f"left out: {name}: {reason.splitlines()[0]}", highlight=False, markup=False)
    if not kept.cells:
        console.print("nothing was measured")
        return code or 1
    kept.cut_short = code != 0
    kept.save(flags.output)
    show(kept, Console())
    console.print(f"raw results: {flags.output}   again: thriftserve-bench report {flags.output}", highlight=False)
    return code or int(ours_failed(kept))


def _measure(settings: PeersSettings, cache: Path, kept: PeersRun, console: Console) -> int:
    try:
        with progress_bar(console) as bar:
            measure_peers(settings, cache, kept, bar)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (ServerFailed, PeersFailed) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    return 0
