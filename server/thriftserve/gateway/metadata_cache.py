"""What each model takes and gives, asked once and remembered.

    (model, version, label) --getModelMetadata--> ModelMetadata, kept until something says that it has changed

That something is an answer from another version than the one described, or a server that refuses what was made by
the description: the caller renews it and tries again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from thriftserve.gateway.backends import Backends
from thriftserve.gateway.http import ModelPath, Refusal
from thriftserve_client.errors import FailedPreconditionError, NotFoundError
from thriftserve_client.results import ModelMetadata, SignatureInfo

DEFAULT_SIGNATURE = "serving_default"
#: Descriptions kept; the one that was longest not asked for goes first.
_MOST_KEPT = 1000
#: A description this young is not asked for again because a request does not fit it.
_FRESH_S = 1.0


class MetadataCache:
    """The models' descriptions."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._known: OrderedDict[ModelPath, ModelMetadata] = OrderedDict()
        self._asked_at: dict[ModelPath, float] = {}
        self._asked: dict[ModelPath, asyncio.Task[ModelMetadata]] = {}

    async def describe(self, path: ModelPath, timeout_s: float) -> ModelMetadata:
        """A model's description.

        Raises:
            Refusal: no such model or version.
            ThriftServeClientError: no server could tell.
        """
        known = self._known.get(path.which)
        if known is None:
            return await self.renew(path, timeout_s)
        self._known.move_to_end(path.which)
        return known

    async def renew(self, path: ModelPath, timeout_s: float) -> ModelMetadata:
        """The same, asked for anew; of several that ask at once, one does."""
        key = path.which
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.ensure_future(self._ask(key, timeout_s))
            task.add_done_callback(lambda _: self._asked.pop(key, None))
        try:
            return await asyncio.shield(task)
        except NotFoundError:
            raise path.not_found() from None
        except FailedPreconditionError:
            if path.label is not None:
                raise path.not_found() from None
            raise
        finally:
            del task  # its error knows this frame

    async def refresh(self, path: ModelPath, timeout_s: float, *, ours: bool) -> ModelMetadata:
        """The same, after something failed by the description.

        Args:
            path: the model.
            timeout_s: how long it may take.
            ours: whether the gateway refused it by itself: clients may do that to it all day, so it asks no server
                about a model that it has asked about within the last second.
        """
        known, now = self._known.get(path.which), asyncio.get_running_loop().time()
        if ours and known is not None and now < self._asked_at.get(path.which, 0.0) + _FRESH_S:
            return known
        return await self.renew(path, timeout_s)

    def ran(self, path: ModelPath, version: int | None) -> None:
        """Tells which version answered: where it is another than the one described, the description is out of date."""
        known = self._known.get(path.which)
        if known is not None and known.version != version:
            self.forget(path)

    def forget(self, path: ModelPath) -> None:
        """Asks again the next time."""
        self._known.pop(path.which, None)
        self._asked_at.pop(path.which, None)

    async def _ask(self, key: ModelPath, timeout_s: float) -> ModelMetadata:
        self.forget(key)
        found = await self._backends.metadata(key.spec(), timeout_s)
        self._known[key] = found
        self._asked_at[key] = asyncio.get_running_loop().time()
        if len(self._known) > _MOST_KEPT:
            oldest, _ = self._known.popitem(last=False)
            self._asked_at.pop(oldest, None)
        return found


def signature_of(described: ModelMetadata, name: str | None) -> SignatureInfo:
    """A signature by its name, the default one where there is none.

    Raises:
        Refusal: the model has no such signature.
    """
    wanted = name or DEFAULT_SIGNATURE
    found = described.signatures.get(wanted)
    if found is None:
        raise Refusal(f'Serving signature name: "{wanted}" not found in signature def')
    return found


def declares_nothing(described: ModelMetadata, signature: SignatureInfo) -> bool:
    """Whether a model takes whatever it is sent: a Python model without signatures."""
    return described.platform == "python" and not signature.inputs and not signature.outputs
