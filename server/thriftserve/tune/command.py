"""`thriftserve model tune PATH`: what it does: flags in, a table out, the winner in the model's settings file.

argv  -->  cells  --Search-->  results  -->  table, BASE_PATH/model.toml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from thriftserve.cores import usable_cores
from thriftserve.errors import ConfigError, ExitCode
from thriftserve.models import devices, meta_graph, model_settings
from thriftserve.models.preload import preload
from thriftserve.models.repository import newest_version
from thriftserve.models.signature import DEFAULT_SIGNATURE
from thriftserve.tune import report, settings_file
from thriftserve.tune.arrangement import Cell, Result, arrangements, best
from thriftserve.tune.crew import Crew, Job, has_rows
from thriftserve.tune.search import Search


def run(flags: argparse.Namespace) -> int:
    """Tunes a model.

    Returns:
        The exit code: 0, or 130 where it was interrupted.

    Raises:
        StartError: a flag is wrong, the model can't be loaded, or a device is not there.
    """
    rows = _batch_sizes(flags.batch_sizes)
    if not (flags.seconds > 0 and flags.budget_s > 0):
        raise ConfigError(f"seconds is {flags.seconds:g}, budget_s {flags.budget_s:g}: both must be above 0")
    version = newest_version(Path(flags.path).expanduser().absolute()).path
    target = settings_file.file_of(version)
    model_settings.load_file(target)  # a mistake in it is told before the measuring, not after
    devices.plan(flags.devices, 1)
    preload()
    job, batched = _job(version, flags.signature)
    hire = _hiring(job, flags.devices)
    if batched and (why := _why_apart(hire)):
        print(f"requests for {job.signature!r} do not share runs, so only batch 1 is measured: {why}", file=sys.stderr)
        batched = False
    cells = [Cell(at, size) for at in arrangements(usable_cores()) for size in (rows if batched else (1,))]
    search = Search(hire, flags.objective, flags.seconds, flags.budget_s, report.show_progress)
    print(f"measuring {len(cells)} combinations of {version}, at most {flags.budget_s:g} s …", file=sys.stderr)
    interrupted = False
    try:
        search.run(cells)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        report.end_progress()
    return _conclude(search, target, write=not (interrupted or flags.dry_run), interrupted=interrupted)


def _hiring(job: Job, where: str) -> Callable[[int, int], Crew]:
    return lambda workers, threads: Crew(job, devices.plan(where, workers), threads)


def _why_apart(hire: Callable[[int, int], Crew]) -> str:
    """Why larger batches must not be chosen: what is written into the settings is taken for the author's word."""
    crew = hire(1, usable_cores())
    try:
        return crew.why_apart()
    finally:
        crew.close()


def _batch_sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(one) for one in text.split(",")}))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 1:
        raise ConfigError(f"batch_sizes is {text!r}: write whole numbers from 1, like 1,4,16")
    return sizes


def _job(version: Path, name: str | None) -> tuple[Job, bool]:
    """What to call, and whether it has rows; the file is read, nothing is loaded."""
    found = meta_graph.described(version)
    if name is None:
        name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in found or len(found) != 1 else next(iter(found))
    if name not in found:
        raise ConfigError(f"signature {name!r}: {version} has {', '.join(found)}; name one with --signature")
    batched = any(has_rows(one.shape) for one in found[name].signature.inputs.values())
    return Job(version.parent, name), batched


def _conclude(search: Search, target: Path, *, write: bool, interrupted: bool) -> int:
    results = list(search.results.values())
    winner = best(results, search.objective)
    for cell, why in search.failed.items():
        print(f"not measured: {cell.arrangement}, batch {cell.rows}: {why}", file=sys.stderr)
    if search.skipped:
        print(f"{search.skipped} combinations were not measured: give more --budget-s", file=sys.stderr)
    if winner is None:
        why = "interrupted before anything was measured" if interrupted else "nothing could be measured"
        print(f"thriftserve: error: {why}", file=sys.stderr)
        return 130 if interrupted else ExitCode.MODEL_LOAD
    print("\n".join(report.table(results, winner, search.objective)))
    tables = settings_of(winner)
    if write:
        settings_file.write(target, tables)
        print(f"written to {target}:")
    else:
        print(f"not written; for {target}:")
    print("\n".join(report.toml(tables)))
    return 130 if interrupted else ExitCode.OK


def settings_of(winner: Result) -> dict[str, dict[str, int]]:
    """A result's cell as the tables of a model.toml."""
    at = winner.cell.arrangement
    return {
        "batching": {"max_batch_size": winner.cell.rows},
        "session": {
            "workers": at.workers,
            "runs_per_worker": at.runs,
            "intra_op_threads": at.threads,
        },
    }
