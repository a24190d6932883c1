"""Which versions of a model are to be served, of those that there are.

    Latest(2), [1, 2, 3]  --among-->  [3, 2]

The three policies are TensorFlow Serving's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Versions travel as a signed 64-bit number.
MIN_VERSION = -(2**63)
MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class Latest:
    """The versions with the highest numbers."""

    num_versions: int = 1

    def among(self, found: Iterable[int]) -> list[int]:
        """The versions to serve, highest first."""
        return sorted(set(found), reverse=True)[: self.num_versions]

    def may_serve(self, version: int) -> bool:
        """Whether that version could ever be served."""
        return True


@dataclass(frozen=True)
class All:
    """Every version."""

    def among(self, found: Iterable[int]) -> list[int]:
        """The versions to serve, highest first."""
        return sorted(set(found), reverse=True)

    def may_serve(self, version: int) -> bool:
        """Whether that version could ever be served."""
        return True


@dataclass(frozen=True)
class Specific:
    """These versions and no others."""

    versions: tuple[int, ...]

    def among(self, found: Iterable[int]) -> list[int]:
        """The versions to serve, highest first."""
        return sorted(set(found) & set(self.versions), reverse=True)

    def may_serve(self, version: int) -> bool:
        """Whether that version could ever be served."""
        return version in self.versions


VersionPolicy = Latest | All | Specific
#: What a model without a policy has.
NEWEST = Latest()


def policy_to_json(policy: VersionPolicy) -> dict[str, Any]:
    """A policy as what JSON can hold."""
    if isinstance(policy, Latest):
        return {"latest": policy.num_versions}
    return {"specific": list(policy.versions)} if isinstance(policy, Specific) else {"all": None}


def policy_from_json(content: Mapping[str, Any]) -> VersionPolicy:
    """From what `policy_to_json` made."""
    ((kind, value),) = content.items()
    if kind == "latest":
        return Latest(value)
    return Specific(tuple(value)) if kind == "specific" else All()
