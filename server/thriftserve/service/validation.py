"""What a signature's requests must look like, worked out once and checked for each request.

    Signature + ImageSettings --> Plan;  IDL tensors --> Plan.arrays --> numpy arrays that the session may see

A batch dimension is not assumed: only what the signature declares is held against a request.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from thriftserve.deadline import Deadline
from thriftserve.errors import InvalidArgument, NotFound
from thriftserve.models.registry import Registry
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve.models.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from thriftserve.service.errors import listed, quoted, shaped, typed
from thriftserve.service.image_input import ImageInput, image_inputs
from thriftserve_client.codec import from_tensor
from thriftserve_idl.ttypes import DataType, ModelSpec, Tensor

# From what a request names to the servable and the plan that answer it.


class ValidatorCache:
    """The plans made so far, by model, version and signature.

    A plan is kept beside a weak reference to its servable: it ends with it, and a version that is
    loaded anew gets a new one. Threads may make the same plan twice; either will do.
    """

    def __init__(self, registry: Registry, max_image_pixels: int) -> None:
        self._registry = registry
        self._max_image_pixels = max_image_pixels
        self._known: dict[tuple[str, int, str], tuple[weakref.ref[Servable], RequestValidator]] = {}

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

    def find(self, spec: ModelSpec | None) -> tuple[Servable, RequestValidator]:
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

    def _made(self, servable: Servable, name: str) -> RequestValidator:
        signature = servable.signatures.get(name)
        if signature is None:
            raise NotFound(
                f"model {quoted(servable.name)} version {servable.version} has no signature {quoted(name)}: "
                f"it has {listed(servable.signatures)}"
            )
        plan = RequestValidator(servable, signature, self._max_image_pixels)
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


class InputCheck:
    """Turns the tensor sent for one input into its array."""

    __slots__ = ("_dtype", "_fixed", "_spec", "image")

    def __init__(self, spec: TensorSpec, image: ImageInput | None) -> None:
        self._spec = spec
        self._dtype = int(spec.dtype)
        self._fixed = tuple((axis, size) for axis, size in enumerate(spec.shape or ()) if size is not None)
        self.image = image

    def array(self, tensor: Tensor, deadline: Deadline) -> Array:
        """The array of a tensor of the declared dtype and shape, or of encoded images for an image input.

        Raises:
            InvalidArgument: names the input, what was sent and what was expected.
        """
        if tensor.dtype != self._dtype:
            if tensor.dtype == DataType.STRING and self.image is not None:
                return self.image.array(decoded(self._spec.name, tensor), deadline)
            raise self._wrong_dtype(tensor)
        array = decoded(self._spec.name, tensor)
        if self._spec.shape is not None:
            shape = array.shape
            if len(shape) != len(self._spec.shape):
                raise self._wrong_shape(shape, f"has {len(shape)} dimensions")
            for axis, size in self._fixed:
                if shape[axis] != size:
                    raise self._wrong_shape(shape, f"has size {shape[axis]} in dimension {axis}")
        return array

    def _wrong_dtype(self, tensor: Tensor) -> InvalidArgument:
        images = " (or STRING: encoded images)" if self.image is not None else ""
        return InvalidArgument(
            f"input {quoted(self._spec.name)} was sent as {typed(tensor.dtype)}: "
            f"expected {self._spec.dtype.name}{images}"
        )

    def _wrong_shape(self, shape: tuple[int, ...], fault: str) -> InvalidArgument:
        return InvalidArgument(
            f"input {quoted(self._spec.name)} of shape {shaped(shape)} {fault}: expected {shaped(self._spec.shape)}"
        )


def decoded(name: str, tensor: Tensor) -> Array:
    """The array of one tensor as it was sent, read-only.

    Raises:
        InvalidArgument: names the input and what does not fit together in its tensor.
    """
    try:
        return from_tensor(tensor)
    except ValueError as error:
        raise InvalidArgument(f"input {quoted(name)}: {error}") from None


class RequestValidator:
    """The checks of one signature of one servable."""

    def __init__(self, servable: Servable, signature: Signature, max_image_pixels: int) -> None:
        self.signature = signature
        self._model = f"signature {quoted(signature.name)} of model {quoted(servable.name)}"
        self.images = image_inputs(signature, servable.image, max_image_pixels)
        self._checks = {name: InputCheck(spec, self.images.get(name)) for name, spec in signature.inputs.items()}
        self._names = frozenset(signature.inputs)
        self._outputs = tuple(signature.outputs)

    def arrays(self, inputs: Mapping[str, Tensor] | None, deadline: Deadline) -> dict[str, Array]:
        """One array for each input of the signature.

        Raises:
            InvalidArgument: inputs are missing, unknown or not what the signature declares.
            DeadlineExceeded: the time was over while images were being decoded.
        """
        if inputs is None:
            inputs = {}
        if not self.signature.validated:
            return {name: decoded(name, tensor) for name, tensor in inputs.items()}
        if inputs.keys() != self._names:
            raise self._wrong_names(inputs)
        checks = self._checks
        return {name: checks[name].array(tensor, deadline) for name, tensor in inputs.items()}

    def wanted(self, output_filter: Sequence[str] | None) -> tuple[str, ...]:
        """The outputs to run: those of the filter, or all of them.

        Raises:
            InvalidArgument: the filter names an output twice, or one that is not there.
        """
        if not output_filter:
            return self._outputs
        chosen = set(output_filter)
        if len(chosen) != len(output_filter):
            twice = {name for name in chosen if output_filter.count(name) > 1}
            raise InvalidArgument(f"output_filter names {listed(twice)} more than once: name each output once")
        unknown = chosen.difference(self._outputs)
        if unknown and self.signature.validated:
            raise InvalidArgument(
                f"output_filter names {listed(unknown)}, not among the outputs of {self._model}: "
                f"it has {listed(self._outputs)}"
            )
        return tuple(output_filter)

    def batch_size(self, arrays: Mapping[str, Array]) -> int:
        """Rows of a run: the leading dimension of its inputs; 1 where they have none."""
        images = self.images
        for name, array in arrays.items():
            if images and name in images and not images[name].batched:
                return 1
            if array.ndim:
                size: int = array.shape[0]
                return size
        return 1

    def _wrong_names(self, inputs: Mapping[str, Any]) -> InvalidArgument:
        faults = []
        if missing := self._names - inputs.keys():
            faults.append(f"inputs {listed(missing)} are missing")
        if extra := inputs.keys() - self._names:
            faults.append(f"inputs {listed(extra)} are not known")
        return InvalidArgument(f"{' and '.join(faults)}: {self._model} takes {listed(self._names)}")
