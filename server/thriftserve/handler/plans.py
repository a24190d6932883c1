"""From what a request names to the servable and the plan that answer it.

ModelSpec --> Registry.get --> Servable, signature --> Plan (kept for the next request)

What is worked out for a signature is worked out once.
"""

from __future__ import annotations

import weakref

from thriftserve.errors import InvalidArgument, NotFound
from thriftserve.handler.plan import Plan
from thriftserve.handler.wording import listed, quoted
from thriftserve.models.registry import Registry
from thriftserve.models.servable import Servable
from thriftserve.models.signature import DEFAULT_SIGNATURE
from thriftserve_idl.ttypes import ModelSpec


class Plans:
    """The plans made so far, by model, version and signature.

    A plan is kept beside a weak reference to its servable: it ends with it, and a version that is
    loaded anew gets a new one. Threads may make the same plan twice; either will do.
    """

    def __init__(self, registry: Registry, max_image_pixels: int) -> None:
        self._registry = registry
        self._max_image_pixels = max_image_pixels
        self._known: dict[tuple[str, int, str], tuple[weakref.ref[Servable], Plan]] = {}

    def servable(self, spec: ModelSpec | None) -> Servable:
        """The servable that a request names.

        Raises:
            InvalidArgument: no name, or both a version and a label.
            NotFound: no such model, version or label.
        """
        return self._servable(named(spec))

    def _servable(self, spec: ModelSpec) -> Servable:
        label = spec.version_label or None
        if label is not None and spec.version is not None:
            raise InvalidArgument(
                f"model_spec has version {spec.version} and version_label {quoted(label)}: set one of them"
            )
        return self._registry.get(spec.name, spec.version, label)

    def find(self, spec: ModelSpec | None) -> tuple[Servable, Plan]:
        """The servable that a request names, and the plan of the signature that it names.

        Raises:
            InvalidArgument: no name, or both a version and a label.
            NotFound: no such model, version, label or signature.
        """
        spec = named(spec)
        servable = self._servable(spec)
        name = spec.signature_name or DEFAULT_SIGNATURE
        known = self._known.get((servable.name, servable.version, name))
        if known is not None and known[0]() is servable:
            return servable, known[1]
        return servable, self._made(servable, name)

    def prepare(self) -> bool:
        """Makes every plan; tells whether any of them takes images."""
        plans = [self._made(one, name) for one in self._registry.servables() for name in one.signatures]
        return any(plan.images for plan in plans)

    def _made(self, servable: Servable, name: str) -> Plan:
        signature = servable.signatures.get(name)
        if signature is None:
            raise NotFound(
                f"model {quoted(servable.name)} version {servable.version} has no signature {quoted(name)}: "
                f"it has {listed(servable.signatures)}"
            )
        plan = Plan(servable, signature, self._max_image_pixels)
        self._known[servable.name, servable.version, name] = (weakref.ref(servable), plan)
        return plan


def named(spec: ModelSpec | None) -> ModelSpec:
    """What a request names, where it names a model at all; Thrift lets a caller leave it out.

    Raises:
        InvalidArgument: it does not.
    """
    if spec is None or not spec.name:
        raise InvalidArgument("model_spec.name is not set: expected the name of a model (listModels tells them)")
    return spec
