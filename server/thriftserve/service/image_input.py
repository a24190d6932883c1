"""Inputs that take encoded images.

    STRING array of JPEG, PNG, … --> ImageInput.decode --> pixels of each image --> ImageInput.stack --> input array

An input is an image input if the model's image.toml names it, or if it has an image's shape:
[H, W, C] or [N, H, W, C] with 1, 3 or 4 channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thriftserve.deadline import Deadline
from thriftserve.errors import InvalidArgument
from thriftserve.models import images
from thriftserve.models.images import DecodedImage, Target
from thriftserve.models.session import Array, Signature, TensorSpec
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.service.errors import format_shape, quote
from thriftserve_client.codec import numpy_dtype
from thriftserve_idl.ttypes import DataType

CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ImageInput:
    """An input that takes images.

    `batch` is the size of its leading dimension, None for any number of images. An input without that dimension has
    `batched` False and takes one image.
    """

    name: str
    dtype: DataType
    batched: bool
    batch: int | None
    target: Target
    #: Limit on the pixels of one encoded image, and of all images of a request after resizing.
    max_pixels: int

    def array(self, encoded: Array, deadline: Deadline) -> Array:
        """Return the input's array for the encoded images of a request.

        Args:
            encoded: object array of bytes, of rank 0 or 1.
            deadline: no image is decoded after it.

        Raises:
            InvalidArgument: an image can't be decoded, or the images together don't fit the input.
        """
        if encoded.ndim > 1:
            raise InvalidArgument(
                f"input {quote(self.name)} was sent as STRING of shape {format_shape(encoded.shape)}: "
                "expected encoded images of rank 1, or one image of rank 0"
            )
        data = encoded.ravel().tolist()
        self.check_count(len(data))
        return self.stack([image.pixels for image in self.decode(data, deadline)])

    def check_count(self, count: int) -> None:
        """Check that one run takes this many images.

        Raises:
            InvalidArgument: it takes another number, which the message says.
        """
        if count == 0:
            raise InvalidArgument(f"input {quote(self.name)} has no image: expected one or more")
        expected = self.batch if self.batched else 1
        if expected is not None and count != expected:
            raise InvalidArgument(f"input {quote(self.name)} takes {expected} image(s) per run: {count} were sent")

    def decode(self, data: Sequence[bytes], deadline: Deadline) -> list[DecodedImage]:
        """Decode and resize every image of a request; the pixels stay unscaled.

        Raises:
            InvalidArgument: an image can't be decoded; the message has its index in the request, from 0.
            DeadlineExceeded: the deadline passed before the last image.
        """
        decoded: list[DecodedImage] = []
        pixels = 0
        for index, encoded in enumerate(data):
            deadline.check()
            decoded.append(images.decode(encoded, self.target, max_pixels=self.max_pixels, index=index))
            height, width, _ = decoded[-1].pixels.shape
            pixels += height * width
            if pixels > self.max_pixels:
                raise InvalidArgument(
                    f"images 0 to {index} of {len(data)} have {pixels} pixels together after resizing: "
                    f"a request may have {self.max_pixels}; send fewer images per request"
                )
        return decoded

    def stack(self, pixels: Sequence[Array]) -> Array:
        """Return the input's array for images of one size, scaled and of the input's dtype.

        Raises:
            InvalidArgument: the images differ in size.
        """
        sizes = {image.shape[:2] for image in pixels}
        if len(sizes) > 1:
            some = ", ".join(f"{width}x{height}" for height, width in sorted(sizes)[:5])
            raise InvalidArgument(
                f"the images of input {quote(self.name)} have different sizes ({some}): expected one size "
                "per request; send them separately, or set height and width in the model's image.toml"
            )
        batch = np.stack(pixels) if self.batched else pixels[0]
        return images.scale_pixels(batch, numpy_dtype(self.dtype), self.target.settings)


def image_inputs(signature: Signature, settings: ImageSettings | None, max_pixels: int) -> Mapping[str, ImageInput]:
    """Return the image inputs of a signature, by name."""
    settings = settings or ImageSettings()
    inputs = {}
    for name, spec in signature.inputs.items():
        configured = settings.input == name
        if spec.dtype not in (DataType.STRING, DataType.BOOL) and _is_image(spec, configured):
            inputs[name] = _image_input(spec, settings, max_pixels)
    return inputs


def _is_image(spec: TensorSpec, configured: bool) -> bool:
    if spec.shape is None:
        return configured
    if len(spec.shape) not in (3, 4):
        return False
    channels = spec.shape[-1]
    return channels in CHANNELS or (configured and channels is None)


def _image_input(spec: TensorSpec, settings: ImageSettings, max_pixels: int) -> ImageInput:
    shape = spec.shape or (None, None, None, None)
    height, width, channels = shape[-3:]
    target = Target(
        height=height or settings.height,
        width=width or settings.width,
        channels=channels or settings.channels or 3,
        settings=settings,
    )
    batched = len(shape) == 4
    return ImageInput(spec.name, DataType(spec.dtype), batched, shape[0] if batched else None, target, max_pixels)
