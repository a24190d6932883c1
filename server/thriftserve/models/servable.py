"""One loaded version of a model with all that serving it takes.

    VersionDir  --loader-->  Servable  -->  service: servable.session.run(...)

It never changes: another version, or other settings, are another Servable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thriftserve.models.session import Session
from thriftserve.models.signature import Signature
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import UNSET, BatchingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Servable:
    """A version of a model, ready to run."""

    name: str
    version: int
    session: Session
    #: Class names by class number; empty if the model has none.
    labels: tuple[str, ...] = ()
    #: How encoded images become the image input; None if the model takes none.
    image: ImageSettings | None = None
    #: How its requests share runs.
    batching: BatchingSettings = UNSET.batching
    #: Strings that it is likely to know, to try it with.
    words: tuple[bytes, ...] = ()
    #: How it is served, for the status: "frozen", "as loaded: …"; empty if there is nothing to say.
    note: str = ""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""
        return self.session.signatures


def close_all(servables: Iterable[Servable]) -> None:
    """Close every session; one that fails to close is logged."""
    for servable in servables:
        try:
            servable.session.close()
        except Exception:  # a Python model's own code; the others still want closing
            log.exception("model %s version %d failed to close", servable.name, servable.version)
