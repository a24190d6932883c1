"""Several runs on one machine joined into one, for a page with more than one workload.

hold-gil.json, spin.json, sleep.json  -->  ExperimentRun of all outcomes; each run's own settings stay beside it
"""

from __future__ import annotations

from collections.abc import Sequence

from thriftserve_bench.records.experiments import ExperimentRun
from thriftserve_bench.run_file import NotARun

_SAME = ("cpu", "cores", "kernel")


def joined(runs: Sequence[ExperimentRun]) -> ExperimentRun:
    """Return one run of all; a single one is returned as it is.

    Fork costs and calibration are those of the first run that has them.

    Raises:
        NotARun: they are from different machines.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    for other in runs[1:]:
        for name in _SAME:
            if other.machine.get(name) != first.machine.get(name):
                raise NotARun(
                    f"runs of different machines can't be joined: {name} is {first.machine.get(name)!r} in one and "
                    f"{other.machine.get(name)!r} in another"
                )
    return ExperimentRun(
        began=first.began,
        settings={
            f"run {number}": {"began": run.began, "commit": run.commit, **run.settings}
            for number, run in enumerate(runs, 1)
        },
        machine=first.machine,
        versions=first.versions,
        commit=" ".join(dict.fromkeys(run.commit for run in runs)),
        outcomes=[outcome for run in runs for outcome in run.outcomes],
        fork_costs=next((run.fork_costs for run in runs if run.fork_costs), []),
        calibration=next((run.calibration for run in runs if run.calibration), {}),
        cut_short=any(run.cut_short for run in runs),
    )


def commands(run: ExperimentRun) -> list[str]:
    """Return the command lines that measure the same again, one for each run that was joined."""
    each = run.settings.values() if "run 1" in run.settings else [run.settings]
    return [_command(settings) for settings in each]


def _command(settings: dict[str, object]) -> str:
    """Return the command line of one run; flags are named like their settings."""
    names = ["workload", "workers", "threads", "side_by_side"]
    if settings.get("workload") != "model":
        names.append("service_ms")
    flags = (f" --{name.replace('_', '-')} {_text(settings[name])}" for name in names if name in settings)
    return "thriftserve-bench experiments" + "".join(flags)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
