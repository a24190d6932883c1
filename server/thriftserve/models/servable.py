"""One loaded version of a model with all that serving it takes.

    repository: (name, version, path)  -->  Servable  -->  handler: servable.session.run(...)

It never changes: another version, or other labels, are another Servable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thriftserve.models.session import Session
from thriftserve.models.signature import Signature
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import UNSET, BatchingSettings


@dataclass(frozen=True)
class Servable:
    """A version of a model, ready to run."""

    name: str
    version: int
    session: Session
    #: Class names by class number; empty where the model has none.
    labels: tuple[str, ...] = ()
    #: How encoded images become the image input; None where the model takes none.
    image: ImageSettings | None = None
    #: How its requests are put together.
    batching: BatchingSettings = UNSET.batching
    #: Labels ("stable", …) that point at this version. Nothing sets them yet.
    version_labels: tuple[str, ...] = field(default=())
    #: Strings that it is likely to know, to try it with.
    words: tuple[bytes, ...] = ()
    #: How it is served, for the status: "frozen", "as loaded: …"; empty where there is nothing to say.
    note: str = ""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""
        return self.session.signatures
