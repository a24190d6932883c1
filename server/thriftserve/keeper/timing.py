"""How often the keeper looks, and how often it tries.

ServeSettings --Timing.of--> Keeper
"""

from __future__ import annotations

from dataclasses import dataclass

from thriftserve.settings import ServeSettings

#: Pauses between two tries do not grow beyond this.
_LONGEST_PAUSE_S = 3600.0


@dataclass(frozen=True)
class Timing:
    """Seconds, and numbers of tries."""

    #: Between two looks at base paths; 0: only when told.
    repository_s: float = 1.0
    #: Between two looks at the configuration file; 0: only when told.
    configuration_s: float = 0.0
    #: Between two looks behind URLs; 0: only when told.
    mirror_s: float = 10.0
    retries: int = 5
    retry_s: float = 10.0

    @classmethod
    def of(cls, settings: ServeSettings) -> Timing:
        """As the settings say."""
        return cls(
            settings.file_system_poll_s,
            settings.model_config_poll_s,
            settings.mirror_poll_s,
            settings.max_load_retries,
            settings.load_retry_interval_s,
        )

    @property
    def second_look_s(self) -> float:
        """After a look, how long until the one that shows what has stayed the same."""
        return min(self.repository_s or 1.0, 1.0)

    def pause_s(self, tries: int) -> float:
        """After so many tries, how long until the next; infinite where there is none."""
        if tries > self.retries:
            return float("inf")
        return float(min(self.retry_s * 2 ** (tries - 1), _LONGEST_PAUSE_S))
