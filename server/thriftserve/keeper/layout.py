"""Where models ask for other workers than the server was started with.

Plan  --Layout.tell-->  a line in the log
"""

from __future__ import annotations

import contextlib
import logging

from thriftserve.errors import StartError
from thriftserve.models import device_choice, placement
from thriftserve.models.state import Plan
from thriftserve.settings import ServeSettings

log = logging.getLogger(__name__)


class Layout:
    """How the server's workers were laid out.

    Args:
        laid_out: the settings that it started with, with the placement of its workers.
    """

    def __init__(self, laid_out: ServeSettings) -> None:
        self._laid_out = laid_out
        self._told: list[str] = []

    def tell(self, settings: ServeSettings, plan: Plan) -> None:
        """Logs, once for each difference, what a plan asks for that only a restart of the server gives."""
        with contextlib.suppress(StartError):  # the workers that load it will tell
            chosen = device_choice.chosen(settings, (model.config for model in plan.models))
            changed = placement.changed(self._laid_out, placement.placed(chosen, plan.models))
            if changed and changed != self._told:
                log.warning("models ask for what a restart of the server gives: %s", "; ".join(changed))
            self._told = changed
