"""Encoded images as one input of a signature.

    STRING array of JPEG, PNG, … --> ImageInput.decode --> pixels, one array an image --> ImageInput.stacked --> input

An input is an image input where the model's settings name it, or where it has an image's shape:
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
from thriftserve.models.session import Array
from thriftserve.models.signature import Signature, TensorSpec
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.service.errors import quoted, shaped
from thriftserve_client.codec import numpy_dtype
from thriftserve_idl.ttypes import DataType

CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ImageInput:
    """An input that takes images.

    `batch` is its leading dimension: None where any number of images will do. Where the input has
    no such dimension, `batched` is False and it takes one image.
    """

    name: str
    dtype: DataType
    batched: bool
    batch: int | None
    target: Target
    #: The most pixels of one encoded image, and of all images of a request once they are resized.
    max_pixels: int

    def array(self, encoded: Array, deadline: Deadline) -> Array:
        """The input's array for the encoded images that a request sent for it.

        Args:
            encoded: object array of bytes, of rank 0 or 1.
            deadline: no image is decoded after it.

        Raises:
            InvalidArgument: an image can't be decoded, or they don't fit the input together.
        """
        if encoded.ndim > 1:
            raise InvalidArgument(
                f"input {quoted(self.name)} was sent as STRING of shape {shaped(encoded.shape)}: "
                "encoded images are a list of rank 1, or one of rank 0"
            )
        data = encoded.ravel().tolist()
        self.check_count(len(data))
        return self.stacked([image.pixels for image in self.decode(data, deadline)])

    def check_count(self, count: int) -> None:
        """Checks that one run takes this many images.

        Raises:
            InvalidArgument: says how many it takes.
        """
        if count == 0:
            raise InvalidArgument(f"input {quoted(self.name)} was sent without an image: expected one or more")
        expected = self.batch if self.batched else 1
        if expected is not None and count != expected:
            raise InvalidArgument(f"input {quoted(self.name)} takes {expected} image(s) a run: {count} were sent")

    def decode(self, data: Sequence[bytes], deadline: Deadline) -> list[DecodedImage]:
        """Every image of a request, decoded and resized, unscaled.

        Raises:
            InvalidArgument: names the image by its place in the request, from 0.
            DeadlineExceeded: the time was over before the last one.
        """
        decoded: list[DecodedImage] = []
        pixels = 0
        for index, one in enumerate(data):
            deadline.check()
            decoded.append(images.decode(one, self.target, max_pixels=self.max_pixels, index=index))
            height, width, _ = decoded[-1].pixels.shape
            pixels += height * width
            if pixels > self.max_pixels:
                raise InvalidArgument(
                    f"images 0 to {index} of {len(data)} have {pixels} pixels together once resized: "
                    f"a request may have {self.max_pixels}; send fewer at once"
                )
        return decoded

    def stacked(self, pixels: Sequence[Array]) -> Array:
        """The input's array for images of one size, scaled and of the input's dtype.

        Raises:
            InvalidArgument: the images differ in size.
        """
        sizes = {one.shape[:2] for one in pixels}
        if len(sizes) > 1:
            some = ", ".join(f"{width}x{height}" for height, width in sorted(sizes)[:5])
            raise InvalidArgument(
                f"the images of input {quoted(self.name)} have different sizes ({some}): the model takes any size "
                "but one for all images of a request; send them one by one, or set height and width in its image.toml"
            )
        batch = np.stack(pixels) if self.batched else pixels[0]
        return images.scaled(batch, numpy_dtype(self.dtype), self.target.settings)


def image_inputs(signature: Signature, settings: ImageSettings | None, max_pixels: int) -> Mapping[str, ImageInput]:
    """The image inputs of a signature, by name."""
    given = settings or ImageSettings()
    found = {}
    for name, spec in signature.inputs.items():
        named = given.input == name
        if spec.dtype not in (DataType.STRING, DataType.BOOL) and _is_image(spec, named):
            found[name] = _image_input(spec, given, max_pixels)
    return found


def _is_image(spec: TensorSpec, named: bool) -> bool:
    if spec.shape is None:
        return named
    if len(spec.shape) not in (3, 4):
        return False
    channels = spec.shape[-1]
    return channels in CHANNELS or (named and channels is None)


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
