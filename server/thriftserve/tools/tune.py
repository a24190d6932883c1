"""`thriftserve model tune PATH`: what it does: flags in, a table out, the winner in the model's settings file.

argv  -->  cells  --Search-->  results  -->  table, BASE_PATH/model.toml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from thriftserve.cores import usable_cores
from thriftserve.errors import ConfigError, ExitCode
from thriftserve.models import devices
from thriftserve.models.signature import DEFAULT_SIGNATURE
from thriftserve.models.tensorflow import meta_graph
from thriftserve.models.tensorflow.preload import preload
from thriftserve.repository import model_settings
from thriftserve.repository.model_settings import write_model_settings
from thriftserve.repository.versions import newest_version
from thriftserve.tools.tune_search import Candidate, Result, Search, arrangements, best, ranked
from thriftserve.tools.tune_workers import TunedSignature, TuneWorkers, has_rows

# What the terminal shows: a line of progress while it measures, a table at the end.

_BAR = 24
#: Rows of the table: the rest is far from the best.
_SHOWN = 15


def show_progress(done: int, total: int, cell: Candidate) -> None:
    """Draws the bar over itself; where stderr is no terminal, nothing is shown."""
    if not sys.stderr.isatty():
        return
    filled = _BAR * done // max(1, total)
    at = cell.arrangement
    told = f"workers {at.workers}, runs {at.runs}, threads {at.threads}, batch {cell.rows}"
    sys.stderr.write(f"\r[{'#' * filled:{_BAR}}] {done}/{total}  {told}\x1b[K")
    sys.stderr.flush()


def end_progress() -> None:
    """Takes the bar away."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def table(results: Iterable[Result], winner: Result, objective: str) -> list[str]:
    """The best results, best first, the winner with an arrow."""
    lines = ["   workers  runs  threads  batch      rows/s   ms a run  p99 ms  measured s"]
    order = ranked(results, objective)
    shown = order[:_SHOWN] if winner in order[:_SHOWN] else [*order[: _SHOWN - 1], winner]
    for one in shown:
        at = one.cell.arrangement
        lines.append(
            f"{'->' if one is winner else '  '} {at.workers:7d} {at.runs:5d} {at.threads:8d} {one.cell.rows:6d} "
            f"{one.rows_per_s:11.1f} {one.median_ms:10.3f} {one.p99_ms:7.2f} {one.seconds:11.2f}"
        )
    if len(order) > len(shown):
        lines.append(f"   … and {len(order) - len(shown)} slower ones")
    return lines


def toml(tables: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Settings as the lines of a file."""
    return [line for name, keys in tables.items() for line in (f"[{name}]", *(f"{k} = {v}" for k, v in keys.items()))]


# The winner's settings in the model's own file, beside whatever else that says.

Tables = Mapping[str, Mapping[str, int]]


def file_of(version_path: Path) -> Path:
    """The file that holds for a version: its own where it has one, else that of its base path."""
    own = version_path / model_settings.FILE
    return own if own.exists() else version_path.parent / model_settings.FILE


def write_settings(path: Path, tables: Tables) -> None:
    """Sets keys of a model.toml; the file changes whole or not at all.

    Raises:
        ModelLoadError: what is there already can't be read as a model's settings.
        ConfigError: it can't be written.
    """
    now = model_settings.load_file(path) or model_settings.UNSET
    then = replace(now, **{name: replace(getattr(now, name), **keys) for name, keys in tables.items()})
    try:
        write_model_settings(path, then)
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be written: {error.strerror}; --dry-run shows the settings, to be put there by hand"
        ) from error


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
    target = file_of(version)
    model_settings.load_file(target)  # a mistake in it is told before the measuring, not after
    devices.assign_devices(flags.devices, 1)
    preload()
    job, batched = _job(version, flags.signature)
    hire = _hiring(job, flags.devices)
    if batched and (why := _why_apart(hire)):
        print(f"requests for {job.signature!r} do not share runs, so only batch 1 is measured: {why}", file=sys.stderr)
        batched = False
    cells = [Candidate(at, size) for at in arrangements(usable_cores()) for size in (rows if batched else (1,))]
    search = Search(hire, flags.objective, flags.seconds, flags.budget_s, show_progress)
    print(f"measuring {len(cells)} combinations of {version}, at most {flags.budget_s:g} s …", file=sys.stderr)
    interrupted = False
    try:
        search.run(cells)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        end_progress()
    return _conclude(search, target, write=not (interrupted or flags.dry_run), interrupted=interrupted)


def _hiring(job: TunedSignature, where: str) -> Callable[[int, int], TuneWorkers]:
    return lambda workers, threads: TuneWorkers(job, devices.assign_devices(where, workers), threads)


def _why_apart(hire: Callable[[int, int], TuneWorkers]) -> str:
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


def _job(version: Path, name: str | None) -> tuple[TunedSignature, bool]:
    """What to call, and whether it has rows; the file is read, nothing is loaded."""
    found = meta_graph.read_endpoints(version)
    if name is None:
        name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in found or len(found) != 1 else next(iter(found))
    if name not in found:
        raise ConfigError(f"signature {name!r}: {version} has {', '.join(found)}; name one with --signature")
    batched = any(has_rows(one.shape) for one in found[name].signature.inputs.values())
    return TunedSignature(version.parent, name), batched


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
    print("\n".join(table(results, winner, search.objective)))
    tables = settings_of(winner)
    if write:
        write_settings(target, tables)
        print(f"written to {target}:")
    else:
        print(f"not written; for {target}:")
    print("\n".join(toml(tables)))
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
