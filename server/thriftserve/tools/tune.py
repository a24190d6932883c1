"""`thriftserve model tune PATH`: measures a model, prints a table, writes the winner into its settings file.

argv  -->  candidates  --Search-->  results  -->  table, BASE_PATH/model.toml
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
from thriftserve.models.session import DEFAULT_SIGNATURE
from thriftserve.models.tensorflow import meta_graph
from thriftserve.models.tensorflow.preload import preload
from thriftserve.repository import model_settings
from thriftserve.repository.versions import newest_version
from thriftserve.tools.tune_search import Candidate, Result, Search, arrangements, best, ranked
from thriftserve.tools.tune_workers import TunedSignature, TuneWorkers

#: Characters of the progress bar, and rows of the table: the rest is far from the best.
_BAR, _SHOWN = 24, 15
#: As shells report a process that SIGINT ended.
_INTERRUPTED = 130

#: The tables of a model.toml with the keys to set.
Tables = Mapping[str, Mapping[str, int]]


def run(flags: argparse.Namespace) -> int:
    """Tune a model.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        StartError: A flag is wrong, the model can't be loaded, or there is no such device.
    """
    batch_sizes = _read_batch_sizes(flags.batch_sizes)
    if not (flags.seconds > 0 and flags.budget_s > 0):
        raise ConfigError(f"seconds is {flags.seconds:g}, budget_s {flags.budget_s:g}: both must be above 0")
    version = newest_version(Path(flags.path).expanduser().absolute()).path
    target = settings_file(version)
    model_settings.load_file(target)  # a mistake in it shows before the measuring, not after
    devices.assign_devices(flags.devices, 1)
    preload()
    signature, batched = _choose_signature(version, flags.signature)

    def start_workers(workers: int, threads: int) -> TuneWorkers:
        return TuneWorkers(signature, devices.assign_devices(flags.devices, workers), threads)

    if batched and (reason := _why_apart(start_workers)):
        message = f"requests for {signature.name!r} do not share runs, so only batch 1 is measured: {reason}"
        print(message, file=sys.stderr)
        batched = False
    sizes = batch_sizes if batched else (1,)
    candidates = [Candidate(arrangement, size) for arrangement in arrangements(usable_cores()) for size in sizes]
    search = Search(start_workers, flags.objective, flags.seconds, flags.budget_s, show_progress)
    print(f"measuring {len(candidates)} combinations of {version}, at most {flags.budget_s:g} s …", file=sys.stderr)
    interrupted = False
    try:
        search.run(candidates)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        clear_progress()
    return _conclude(search, target, write=not (interrupted or flags.dry_run), interrupted=interrupted)


def show_progress(measured: int, total: int, candidate: Candidate) -> None:
    """Draw the progress bar over itself, if stderr is a terminal."""
    if not sys.stderr.isatty():
        return
    filled = _BAR * measured // max(1, total)
    arrangement = candidate.arrangement
    label = (
        f"workers {arrangement.workers}, runs {arrangement.runs}, threads {arrangement.threads}, batch {candidate.rows}"
    )
    sys.stderr.write(f"\r[{'#' * filled:{_BAR}}] {measured}/{total}  {label}\x1b[K")
    sys.stderr.flush()


def clear_progress() -> None:
    """Remove the progress bar."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def settings_file(version_path: Path) -> Path:
    """Return the settings file of a version: its own if it has one, else that of its base path."""
    own = version_path / model_settings.FILE
    return own if own.exists() else version_path.parent / model_settings.FILE


def write_settings(path: Path, tables: Tables) -> None:
    """Set keys of a model.toml; the file changes whole or not at all.

    Raises:
        ModelLoadError: The file is there, and can't be read as a model's settings.
        ConfigError: It can't be written.
    """
    present = model_settings.load_file(path) or model_settings.UNSET
    wanted = replace(present, **{name: replace(getattr(present, name), **keys) for name, keys in tables.items()})
    try:
        model_settings.write_model_settings(path, wanted)
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be written: {error.strerror}; --dry-run shows the settings, to be put there by hand"
        ) from error


def _why_apart(start_workers: Callable[[int, int], TuneWorkers]) -> str:
    """Return why larger batches must not be chosen, or "": what the settings say counts as the author's word."""
    workers = start_workers(1, usable_cores())
    try:
        return workers.why_apart()
    finally:
        workers.close()


def _read_batch_sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(size) for size in text.split(",")}))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 1:
        raise ConfigError(f"batch_sizes is {text!r}: write whole numbers from 1, like 1,4,16")
    return sizes


def _choose_signature(version: Path, name: str | None) -> tuple[TunedSignature, bool]:
    """Return the signature to call, and whether it has rows; the file is read, nothing is loaded."""
    endpoints = meta_graph.read_endpoints(version)
    if name is None:
        name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in endpoints or len(endpoints) != 1 else next(iter(endpoints))
    if name not in endpoints:
        raise ConfigError(f"signature {name!r}: {version} has {', '.join(endpoints)}; name one with --signature")
    batched = any(spec.has_rows for spec in endpoints[name].signature.inputs.values())
    return TunedSignature(version.parent, name), batched


def _conclude(search: Search, target: Path, *, write: bool, interrupted: bool) -> int:
    results = list(search.results.values())
    winner = best(results, search.objective)
    for candidate, reason in search.failed.items():
        print(f"not measured: {candidate.arrangement}, batch {candidate.rows}: {reason}", file=sys.stderr)
    if search.skipped:
        print(f"{search.skipped} combinations were not measured: give more --budget-s", file=sys.stderr)
    if winner is None:
        reason = "interrupted before anything was measured" if interrupted else "nothing could be measured"
        print(f"thriftserve: error: {reason}", file=sys.stderr)
        return _INTERRUPTED if interrupted else ExitCode.MODEL_LOAD
    print("\n".join(_table(results, winner, search.objective)))
    tables = _settings_of(winner)
    if write:
        write_settings(target, tables)
    print(f"written to {target}:" if write else f"not written; for {target}:")
    for name, keys in tables.items():
        print("\n".join((f"[{name}]", *(f"{key} = {value}" for key, value in keys.items()))))
    return _INTERRUPTED if interrupted else ExitCode.OK


def _table(results: Iterable[Result], winner: Result, objective: str) -> list[str]:
    """Return the lines of the best results, best first, the winner with an arrow."""
    lines = ["   workers  runs  threads  batch      rows/s   ms a run  p99 ms  measured s"]
    order = ranked(results, objective)
    shown = order[:_SHOWN] if winner in order[:_SHOWN] else [*order[: _SHOWN - 1], winner]
    for result in shown:
        arrangement = result.candidate.arrangement
        lines.append(
            f"{'->' if result is winner else '  '} {arrangement.workers:7d} {arrangement.runs:5d} "
            f"{arrangement.threads:8d} {result.candidate.rows:6d} {result.rows_per_s:11.1f} {result.median_ms:10.3f} "
            f"{result.p99_ms:7.2f} {result.seconds:11.2f}"
        )
    if len(order) > len(shown):
        lines.append(f"   … and {len(order) - len(shown)} slower ones")
    return lines


def _settings_of(winner: Result) -> Tables:
    arrangement = winner.candidate.arrangement
    return {
        "batching": {"max_batch_size": winner.candidate.rows},
        "session": {
            "workers": arrangement.workers,
            "runs_per_worker": arrangement.runs,
            "intra_op_threads": arrangement.threads,
        },
    }
