"""Which versions of a model are to be served, of those that there are.

    Latest(2), [1, 2, 3]  --among-->  [3, 2]

The three policies are TensorFlow Serving's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
