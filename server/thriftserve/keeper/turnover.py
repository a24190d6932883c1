"""How far workers are with a plan.

plans that workers have loaded  --under_way-->  whether the next plan has to wait
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from thriftserve.models.repository import VersionDir
from thriftserve.models.state import Plan
from thriftserve.status import WorkerPhase


def under_way(
    plan: Plan, seen: Iterable[tuple[WorkerPhase, int]], held_back: Collection[tuple[str, VersionDir]]
) -> bool:
    """Whether workers come to have a plan, and may: the next one waits for that.

    Another one now would meet workers that load this one. They would serve versions that nobody tells of, and where
    versions come faster than they load, no plan would ever be everywhere.

    Args:
        plan: what they are to load.
        seen: phase and the number of the plan that it has, of each worker.
        held_back: versions that could not be loaded, and are not to be tried now.
    """
    if any(one in held_back for one in plan.versions()):
        return False
    return any(phase is not WorkerPhase.IDLE or number != plan.number for phase, number in seen)
