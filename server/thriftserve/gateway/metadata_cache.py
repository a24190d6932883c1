"""A cache of the models' metadata.

    (model, version, label) --getModelMetadata--> ModelMetadata, cached until the model may have changed

It may have changed if another version answers than the cached one, or if a server refuses a request that was decoded
by the cached metadata: then the caller renews it and tries again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from thriftserve.gateway.backends import Backends
from thriftserve.gateway.http import ModelPath, Refusal
from thriftserve_client.errors import FailedPreconditionError, NotFoundError
from thriftserve_client.results import ModelMetadata, SignatureInfo

DEFAULT_SIGNATURE = "serving_default"
#: Entries of the cache; the least recently used is dropped first.
_MAX_ENTRIES = 1000
#: Metadata younger than this is not read again because a request does not fit it.
_FRESH_S = 1.0


class MetadataCache:
    """Metadata of models by model and version. Used by the event loop's thread."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._entries: OrderedDict[ModelPath, ModelMetadata] = OrderedDict()
        self._read_at: dict[ModelPath, float] = {}
        self._reads: dict[ModelPath, asyncio.Task[ModelMetadata]] = {}

    async def get(self, path: ModelPath, timeout_s: float) -> ModelMetadata:
        """Return a model's metadata.

        Raises:
            Refusal: no such model or version.
            ThriftServeClientError: no server returned it.
        """
        metadata = self._entries.get(path.without_verb)
        if metadata is None:
            return await self.renew(path, timeout_s)
        self._entries.move_to_end(path.without_verb)
        return metadata

    async def renew(self, path: ModelPath, timeout_s: float) -> ModelMetadata:
        """Return a model's metadata, read again; concurrent callers share one read. Errors as for `get`."""
        key = path.without_verb
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.ensure_future(self._read(key, timeout_s))
            task.add_done_callback(lambda _: self._reads.pop(key, None))
        try:
            return await asyncio.shield(task)
        except NotFoundError:
            raise path.not_found() from None
        except FailedPreconditionError:
            if path.label is not None:
                raise path.not_found() from None
            raise
        finally:
            del task  # its error refers to this frame

    async def refresh(self, path: ModelPath, timeout_s: float, *, refused_here: bool) -> ModelMetadata:
        """Return a model's metadata after a request failed with the cached one. Errors as for `get`.

        Args:
            path: names the model and version.
            timeout_s: limit on the read.
            refused_here: whether the gateway itself refused the request. Then metadata younger than a second is not
                read again: clients with wrong requests must not load the servers.
        """
        metadata, now = self._entries.get(path.without_verb), asyncio.get_running_loop().time()
        if refused_here and metadata is not None and now < self._read_at.get(path.without_verb, 0.0) + _FRESH_S:
            return metadata
        return await self.renew(path, timeout_s)

    def note_version(self, path: ModelPath, version: int | None) -> None:
        """Drop a model's metadata if another version answered than the cached one."""
        metadata = self._entries.get(path.without_verb)
        if metadata is not None and metadata.version != version:
            self._drop(path)

    def _drop(self, path: ModelPath) -> None:
        self._entries.pop(path.without_verb, None)
        self._read_at.pop(path.without_verb, None)

    async def _read(self, key: ModelPath, timeout_s: float) -> ModelMetadata:
        self._drop(key)
        metadata = await self._backends.metadata(key.spec(), timeout_s)
        self._entries[key] = metadata
        self._read_at[key] = asyncio.get_running_loop().time()
        if len(self._entries) > _MAX_ENTRIES:
            oldest, _ = self._entries.popitem(last=False)
            self._read_at.pop(oldest, None)
        return metadata


def signature_of(metadata: ModelMetadata, name: str | None) -> SignatureInfo:
    """Return a signature by its name, or the default one for None.

    Raises:
        Refusal: the model has no such signature.
    """
    name = name or DEFAULT_SIGNATURE
    signature = metadata.signatures.get(name)
    if signature is None:
        raise Refusal(f'Serving signature name: "{name}" not found in signature def')
    return signature


def declares_nothing(metadata: ModelMetadata, signature: SignatureInfo) -> bool:
    """Return whether a model takes any inputs: a Python model without signatures."""
    return metadata.platform == "python" and not signature.inputs and not signature.outputs
