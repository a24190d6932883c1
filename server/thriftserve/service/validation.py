"""Check requests against the signature that they name.

    ModelSpec --> ValidatorCache.find --> Servable, RequestValidator
    tensors of the request --> RequestValidator.arrays --> numpy arrays for the session

A validator is built once for each signature. It checks what the signature declares, and assumes no batch dimension.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from thriftserve.deadline import Deadline
from thriftserve.errors import InvalidArgument, NotFound
from thriftserve.models.registry import Registry, Servable
from thriftserve.models.session import DEFAULT_SIGNATURE, Array, Signature, TensorSpec
from thriftserve.service.errors import format_dtype, format_shape, quote, quote_all
from thriftserve.service.image_input import ImageInput, image_inputs
from thriftserve_client.codec import from_tensor
from thriftserve_idl.ttypes import DataType, ModelSpec, Tensor


class ValidatorCache:
    """The validators of the signatures that this process serves, built when they are first needed.

    Each is stored with a weak reference to its servable, so a version that is loaded again gets new ones. Several
    threads may use the cache at once; two may build the same validator, and either copy serves.
    """

    def __init__(self, registry: Registry, max_image_pixels: int) -> None:
        self._registry = registry
        self._max_image_pixels = max_image_pixels
        self._validators: dict[tuple[str, int, str], tuple[weakref.ref[Servable], RequestValidator]] = {}

    def servable(self, spec: ModelSpec | None) -> Servable:
        """Return the servable that a request names.

        Raises:
            InvalidArgument: no name, or both a version and a label.
            NotFound: no such model, version or label.
        """
        return self._servable(require_name(spec))

    def _servable(self, spec: ModelSpec) -> Servable:
        label = spec.version_label or None
        if label is not None and spec.version is not None:
            raise InvalidArgument(
                f"model_spec has version {spec.version} and version_label {quote(label)}: set one of them"
            )
        return self._registry.get(spec.name, spec.version, label)

    def find(self, spec: ModelSpec | None) -> tuple[Servable, RequestValidator]:
        """Return the servable that a request names, and the validator of the signature that it names.

        Raises:
            InvalidArgument: no name, or both a version and a label.
            NotFound: no such model, version, label or signature.
        """
        spec = require_name(spec)
        servable = self._servable(spec)
        name = spec.signature_name or DEFAULT_SIGNATURE
        cached = self._validators.get((servable.name, servable.version, name))
        if cached is not None and cached[0]() is servable:
            return servable, cached[1]
        return servable, self._build(servable, name)

    def prepare(self) -> bool:
        """Build the validators of all servables; return whether any of them takes images."""
        validators = [
            self._build(servable, name) for servable in self._registry.servables() for name in servable.signatures
        ]
        return any(validator.images for validator in validators)

    def _build(self, servable: Servable, name: str) -> RequestValidator:
        signature = servable.signatures.get(name)
        if signature is None:
            raise NotFound(
                f"model {quote(servable.name)} version {servable.version} has no signature {quote(name)}: "
                f"it has {quote_all(servable.signatures)}"
            )
        validator = RequestValidator(servable, signature, self._max_image_pixels)
        self._validators[servable.name, servable.version, name] = (weakref.ref(servable), validator)
        return validator


def require_name(spec: ModelSpec | None) -> ModelSpec:
    """Return the spec of a request that names a model; Thrift lets a caller leave the name out.

    Raises:
        InvalidArgument: it names none.
    """
    if spec is None or not spec.name:
        raise InvalidArgument("model_spec.name is not set: expected the name of a model (listModels returns them)")
    return spec


class InputCheck:
    """Check and decode the tensor of one input."""

    __slots__ = ("_dtype", "_fixed", "_spec", "image")

    def __init__(self, spec: TensorSpec, image: ImageInput | None) -> None:
        self._spec = spec
        self._dtype = int(spec.dtype)
        self._fixed = tuple((axis, size) for axis, size in enumerate(spec.shape or ()) if size is not None)
        self.image = image

    def array(self, tensor: Tensor, deadline: Deadline, free_shapes: bool = False) -> Array:
        """Return the array of a tensor of the declared dtype and shape, or of encoded images for an image input.

        Args:
            tensor: as it was sent.
            deadline: of the request.
            free_shapes: whether the tensor may have any shape.

        Raises:
            InvalidArgument: names the input, what was sent and what was expected.
        """
        if tensor.dtype != self._dtype:
            if tensor.dtype == DataType.STRING and self.image is not None:
                return self.image.array(decode_tensor(self._spec.name, tensor), deadline)
            raise self._wrong_dtype(tensor)
        array = decode_tensor(self._spec.name, tensor)
        if not free_shapes and (fault := self.shape_fault(array.shape)) is not None:
            raise self._wrong_shape(array.shape, fault)
        return array

    def shape_fault(self, shape: tuple[int, ...]) -> str | None:
        """Return what is wrong with a shape, in words; None if it is as declared."""
        if self._spec.shape is None:
            return None
        if len(shape) != len(self._spec.shape):
            return f"has {len(shape)} dimensions"
        for axis, size in self._fixed:
            if shape[axis] != size:
                return f"has size {shape[axis]} in dimension {axis}"
        return None

    def _wrong_dtype(self, tensor: Tensor) -> InvalidArgument:
        images = " (or STRING: encoded images)" if self.image is not None else ""
        return InvalidArgument(
            f"input {quote(self._spec.name)} has dtype {format_dtype(tensor.dtype)}: "
            f"expected {self._spec.dtype.name}{images}"
        )

    def _wrong_shape(self, shape: tuple[int, ...], fault: str) -> InvalidArgument:
        return InvalidArgument(
            f"input {quote(self._spec.name)} of shape {format_shape(shape)} {fault}: "
            f"expected {format_shape(self._spec.shape)}"
        )


def decode_tensor(name: str, tensor: Tensor) -> Array:
    """Return the array of one tensor as it was sent, read-only.

    Raises:
        InvalidArgument: dtype, shape and content of the tensor contradict each other; the message names the input.
    """
    try:
        return from_tensor(tensor)
    except ValueError as error:
        raise InvalidArgument(f"input {quote(name)}: {error}") from None


class RequestValidator:
    """The checks of one signature of one servable; several threads may use it at once."""

    def __init__(self, servable: Servable, signature: Signature, max_image_pixels: int) -> None:
        self.signature = signature
        self.display_name = f"signature {quote(signature.name)} of model {quote(servable.name)}"
        self.images = image_inputs(signature, servable.image, max_image_pixels)
        self._checks = {name: InputCheck(spec, self.images.get(name)) for name, spec in signature.inputs.items()}
        self._names = frozenset(signature.inputs)
        self._outputs = tuple(signature.outputs)

    def arrays(
        self, inputs: Mapping[str, Tensor] | None, deadline: Deadline, free_shapes: bool = False
    ) -> dict[str, Array]:
        """Return one array for each input of the signature.

        Args:
            inputs: as they were sent.
            deadline: of the request.
            free_shapes: whether inputs may have any shape; see `fits`.

        Raises:
            InvalidArgument: inputs are missing, unknown or not what the signature declares.
            DeadlineExceeded: the deadline passed while images were decoded.
        """
        if inputs is None:
            inputs = {}
        if not self.signature.validated:
            return {name: decode_tensor(name, tensor) for name, tensor in inputs.items()}
        if inputs.keys() != self._names:
            raise self._wrong_names(inputs)
        checks = self._checks
        return {name: checks[name].array(tensor, deadline, free_shapes) for name, tensor in inputs.items()}

    def fits(self, arrays: Mapping[str, Array]) -> bool:
        """Return whether arrays have the shapes that the signature declares; images have those of their own."""
        return all(
            check.shape_fault(arrays[name].shape) is None or check.image is not None
            for name, check in self._checks.items()
            if name in arrays
        )

    def output_names(self, output_filter: Sequence[str] | None) -> tuple[str, ...]:
        """Return the outputs to run: those of the filter, or all of them.

        Raises:
            InvalidArgument: the filter names an output twice, or one that does not exist.
        """
        if not output_filter:
            return self._outputs
        chosen = set(output_filter)
        if len(chosen) != len(output_filter):
            twice = {name for name in chosen if output_filter.count(name) > 1}
            raise InvalidArgument(f"output_filter names {quote_all(twice)} more than once: name each output once")
        unknown = chosen.difference(self._outputs)
        if unknown and self.signature.validated:
            raise InvalidArgument(
                f"output_filter names {quote_all(unknown)}: expected some of the outputs of {self.display_name}, "
                f"{quote_all(self._outputs)}"
            )
        return tuple(output_filter)

    def batch_size(self, arrays: Mapping[str, Array]) -> int:
        """Return the rows of a run: the leading dimension of its inputs; 1 if they have none."""
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
            faults.append(f"inputs {quote_all(missing)} are missing")
        if extra := inputs.keys() - self._names:
            faults.append(f"inputs {quote_all(extra)} are unknown")
        return InvalidArgument(f"{' and '.join(faults)}: {self.display_name} takes {quote_all(self._names)}")
