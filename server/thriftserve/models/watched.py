"""One base path, looked at again and again: which of its versions are whole, and which are to be served.

    BASE_PATH, policy  --poll-->  ([VersionDir 43, VersionDir 42], ["…/44 is not whole: …"])

A version is looked into until it is found whole, and never again: what serves does not depend on its files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thriftserve.errors import ModelLoadError
from thriftserve.models import completeness, repository
from thriftserve.models.completeness import FileStat, Snapshot
from thriftserve.models.repository import VersionDir
from thriftserve.models.version_policy import Latest, Specific, VersionPolicy
from thriftserve.models.wire_fields import Damaged

Found = tuple[tuple[VersionDir, ...], tuple[str, ...]]


@dataclass
class _Seen:
    """What is known of a version's directory."""

    snapshot: Snapshot | None = None
    #: What it lacks, for `snapshot`; "" where nothing was looked for yet, None where it is whole.
    fault: str | None = ""
    #: The graph's file when the version was found whole.
    whole: FileStat | None = None


class WatchedPath:
    """A base path and what is known of its versions."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self._seen: dict[Path, _Seen] = {}

    def poll(self, policy: VersionPolicy, before: tuple[VersionDir, ...], *, settled: bool = False) -> Found:
        """The versions to serve, newest first, and everything that is wrong now.

        Args:
            policy: which of the whole versions are to be served.
            before: what was wanted so far; it stays so where the base path can't be read.
            settled: whether one look is enough.
        """
        try:
            found = repository.versions(self.base_path)
        except ModelLoadError as error:
            return before, (error.message,)
        twins = repository.twins(self.base_path, found)
        held = {one.version: one for one in before if one in found}
        # Of twins, the one that serves goes on; where none does, there is no telling which is meant.
        candidates = {one.version: one for one in found if one.version not in twins or held.get(one.version) == one}
        self._forget(candidates.values())
        problems = list(twins.values())
        wanted = self._whole(policy, candidates, problems, settled=settled)
        problems.extend(self._missing(policy, {one.version for one in found}))
        return wanted, tuple(problems)

    def _whole(
        self, policy: VersionPolicy, candidates: dict[int, VersionDir], problems: list[str], *, settled: bool
    ) -> tuple[VersionDir, ...]:
        """The whole versions among those that the policy asks for: for Latest, older ones in place of others."""
        most = policy.num_versions if isinstance(policy, Latest) else len(candidates)
        asked = sorted(candidates, reverse=True) if isinstance(policy, Latest) else policy.among(candidates)
        wanted: list[VersionDir] = []
        for version in asked:
            if len(wanted) == most:
                break
            told = self._look(candidates[version].path, settled=settled)
            if told is None:
                wanted.append(candidates[version])
                problems.extend(self._rewritten(candidates[version].path))
            elif told:
                problems.append(f"{candidates[version].path}: is not whole: {told}")
        return tuple(wanted)

    def _look(self, path: Path, *, settled: bool) -> str | None:
        """What a version lacks; "" where it changed since the last look, None where it is whole."""
        seen = self._seen.setdefault(path, _Seen())
        if seen.whole is not None:
            return None
        try:
            snapshot = completeness.look(path)
        except (OSError, Damaged) as error:
            seen.snapshot = None
            return f"it can't be looked into: {error}"
        if snapshot != seen.snapshot:
            seen.snapshot, seen.fault = snapshot, ""
            if not settled:
                return ""
        if seen.fault == "":
            seen.fault = self._fault(path, snapshot)
        if seen.fault is None:
            seen.whole = next(snapshot[name] for name in (completeness.PB, completeness.PBTXT) if name in snapshot)
        return seen.fault

    def _rewritten(self, path: Path) -> Iterable[str]:
        found, seen = completeness.look_at_graph(path), self._seen[path]
        # Nothing to be seen: it is being removed, and will be gone from the base path next.
        if found is not None and found != seen.whole:
            yield f"{path}: was written again after it was found whole, which has no effect: give it a new number"

    def _fault(self, path: Path, snapshot: Snapshot) -> str | None:
        told = completeness.fault(path, snapshot)
        try:
            # What was read must be what the snapshot has seen.
            return told if completeness.look(path) == snapshot else ""
        except (OSError, Damaged):
            return ""

    def _missing(self, policy: VersionPolicy, found: set[int]) -> Iterable[str]:
        if isinstance(policy, Specific):
            return [
                f"{self.base_path}: has no version {version}, which the policy names"
                for version in policy.versions
                if version not in found
            ]
        return [] if found else [repository.why_none(self.base_path)]

    def _forget(self, there: Iterable[VersionDir]) -> None:
        kept = {one.path for one in there}
        self._seen = {path: seen for path, seen in self._seen.items() if path in kept}
