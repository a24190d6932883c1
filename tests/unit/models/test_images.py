"""Encoded images to pixels: every mode, format and orientation; what is damaged or too large is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from encoded_images import encoded, oriented, photo, plain, png_bomb
from thriftserve.errors import FailedPrecondition, InvalidArgument
from thriftserve.models.images import DecodedImage, Target, decode, scale_pixels
from thriftserve.repository.image_settings import ImageSettings

LIMIT = 1_000_000
RED = (255, 0, 0)


def decoded(
    data: bytes,
    *,
    height: int | None = None,
    width: int | None = None,
    channels: int = 3,
    max_pixels: int = LIMIT,
    index: int = 0,
    **settings: Any,
) -> DecodedImage:
    target = Target(height, width, channels, ImageSettings(**settings))
    return decode(data, target, max_pixels=max_pixels, index=index)


def quarters() -> Image.Image:
    """24 x 16: red, green / blue, white. Each of the eight orientations looks different."""
    image = Image.new("RGB", (24, 16), RED)
    image.paste((0, 255, 0), (12, 0, 24, 8))
    image.paste((0, 0, 255), (0, 8, 12, 16))
    image.paste((255, 255, 255), (12, 8, 24, 16))
    return image


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright(orientation: int, file_format: str) -> None:
    """An image is the same to the model however the camera was held, and its size is the upright one."""
    image = decoded(oriented(quarters(), orientation, file_format))
    assert (image.width, image.height) == (24, 16)
    centres = image.pixels[[4, 4, 12, 12], [6, 18, 6, 18]].astype(int)
    assert np.abs(centres - [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_goes_with_draft_decoding_and_resize(orientation: int) -> None:
    """A large rotated JPEG, decoded at a smaller scale, comes out as the upright one does."""
    upright = photo(640, 480)
    straight = decoded(encoded(upright), height=60, width=100).pixels.astype(int)
    turned = decoded(oriented(upright, orientation, "JPEG"), height=60, width=100)
    assert (turned.width, turned.height) == (640, 480)
    assert np.abs(turned.pixels.astype(int) - straight).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own words about it; no error in a server
def test_damaged_exif_leaves_the_image_as_it_is() -> None:
    """Nonsense in the EXIF block does not cost the image."""
    image = decoded(encoded(quarters(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"))
    assert (image.width, image.height) == (24, 16)


def _palette_with_transparency() -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    return encoded(image, transparency=0)


RED_IN_EVERY_MODE: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: plain(4, 4),
    "RGBA": lambda: encoded(Image.new("RGBA", (4, 4), (*RED, 255))),
    "P": lambda: encoded(Image.new("RGB", (4, 4), RED).convert("P")),
    "P with transparency": _palette_with_transparency,
    "GIF": lambda: encoded(Image.new("RGB", (4, 4), RED), "GIF"),
    "BMP": lambda: encoded(Image.new("RGB", (4, 4), RED), "BMP"),
    "WEBP": lambda: encoded(Image.new("RGB", (4, 4), RED), "WEBP", lossless=True),
    "TIFF": lambda: encoded(Image.new("RGB", (4, 4), RED), "TIFF"),
    "CMYK TIFF": lambda: encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"),
    "CMYK JPEG": lambda: encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100),
}


@pytest.mark.parametrize("mode", RED_IN_EVERY_MODE)
@pytest.mark.parametrize(("channels", "expected"), [(1, [76]), (3, [255, 0, 0]), (4, [255, 0, 0, 255])])
def test_colour_modes(mode: str, channels: int, expected: list[int]) -> None:
    """Red is red in whatever mode and format it was saved, for each count of channels."""
    pixels = decoded(RED_IN_EVERY_MODE[mode](), channels=channels).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 4, channels)
    assert np.abs(pixels.astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    ("mode", "value", "level"), [("L", 100, 100), ("1", 1, 255), ("LA", (100, 255), 100), ("I;16", 100 << 8, 100)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_modes(mode: str, value: Any, level: int, channels: int) -> None:
    """Grey images of 1, 8 and 16 bits come out in 8 bits, not cut off at 255."""
    pixels = decoded(encoded(Image.new(mode, (4, 4), value)), channels=channels).pixels
    assert pixels.shape == (4, 4, channels)
    assert (pixels == level).all()


def test_transparent_pixels_show_the_background() -> None:
    """Half-transparent red over black is dark red, over white it is pink; with 4 channels alpha stays."""
    data = encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))
    assert decoded(data).pixels[0, 0].tolist() == [128, 0, 0]
    assert decoded(data, background=255).pixels[0, 0].tolist() == [255, 127, 127]
    assert decoded(data, background=(0, 0, 255)).pixels[0, 0].tolist() == [128, 0, 127]
    assert decoded(data, channels=4).pixels[0, 0].tolist() == [255, 0, 0, 128]
    grey = encoded(Image.new("LA", (2, 2), (200, 0)))
    assert decoded(grey, channels=1).pixels[0, 0].tolist() == [0]


def test_floating_point_images_are_refused() -> None:
    """Nobody knows the range of a floating-point TIFF: the message says so."""
    with pytest.raises(InvalidArgument, match=r"image 2: a TIFF of floating-point .* without a known range"):
        decoded(encoded(Image.new("F", (4, 4), 0.5), "TIFF"), index=2)


def test_animations_give_their_first_frame() -> None:
    """An animated GIF is its first frame."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded(data).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_draft_decoding_differs_little_from_full_decoding(fit: str, channels: int, orientation: int) -> None:
    """A JPEG decoded at a smaller scale and resized is what full decoding and resizing give, nearly."""
    jpeg = oriented(photo(640, 480), orientation, "JPEG")
    full = decoded(encoded(Image.fromarray(decoded(jpeg).pixels)), height=100, width=120, channels=channels, fit=fit)
    draft = decoded(jpeg, height=100, width=120, channels=channels, fit=fit)
    difference = np.abs(draft.pixels.astype(int) - full.pixels.astype(int))
    assert draft.pixels.shape == full.pixels.shape
    assert difference.mean() < 2
    assert difference.max() < 24


def test_a_small_target_is_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft decoding does take place for a large JPEG, and does not where the nearest pixel was asked for."""
    seen = []
    load = ImageFile.ImageFile.load

    def loading(self: ImageFile.ImageFile) -> Any:
        seen.append(self.size)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", loading)
    jpeg = encoded(photo(640, 480), "JPEG")
    decoded(jpeg, height=100, width=100)
    assert seen[0] == (160, 120)
    seen.clear()
    decoded(oriented(photo(640, 480), 6, "JPEG"), height=160, width=60)  # lies on its side: 480 x 640
    assert seen[0] == (240, 320)
    seen.clear()
    decoded(jpeg, height=100, width=100, resample="nearest")
    assert seen[0] == (640, 480)


def test_stretch_ignores_proportions() -> None:
    """Fit stretch: all of the image, whatever its proportions."""
    pixels = decoded(encoded(quarters()), height=4, width=4, resample="nearest").pixels
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[3, 3].tolist() == [255, 255, 255]
    assert pixels.shape == (4, 4, 3)


def test_crop_keeps_the_middle() -> None:
    """Fit crop: the sides of a wide image are cut off, the middle fills the target."""
    image = Image.new("RGB", (30, 10), RED)
    image.paste((0, 0, 255), (10, 0, 20, 10))
    pixels = decoded(encoded(image), height=5, width=5, fit="crop", resample="nearest").pixels
    assert pixels.shape == (5, 5, 3)
    assert (pixels == [0, 0, 255]).all()
    smooth = decoded(encoded(image), height=5, width=5, fit="crop").pixels
    assert (smooth[:, 1:4] == [0, 0, 255]).all()


def test_pad_keeps_all_of_it_on_the_background() -> None:
    """Fit pad: the whole image in its proportions, the rest background."""
    pixels = decoded(plain(30, 10), height=6, width=6, fit="pad", background=(0, 0, 9)).pixels
    assert (pixels[2:4] == [255, 0, 0]).all()
    assert (pixels[[0, 1, 4, 5]] == [0, 0, 9]).all()


def test_an_image_keeps_its_size_where_none_is_set() -> None:
    """Without a size of the model's, an image keeps its own; of one side alone, the other follows."""
    assert decoded(plain(30, 10)).pixels.shape == (10, 30, 3)
    assert decoded(plain(30, 10), height=5).pixels.shape == (5, 15, 3)
    assert decoded(plain(30, 10), width=60).pixels.shape == (20, 60, 3)


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_every_resample_filter(resample: str) -> None:
    """Each filter's name is one of Pillow's, and gives what Pillow gives."""
    pixels = decoded(encoded(quarters()), height=7, width=9, resample=resample).pixels
    expected = np.asarray(quarters().resize((9, 7), Image.Resampling[resample.upper()]))
    assert (pixels == expected).all()


def test_extreme_proportions_cost_no_memory() -> None:
    """A line of pixels cropped or stretched to a square never becomes billions of pixels in between."""
    line = plain(50_000, 1)
    assert decoded(line, height=224, width=224, fit="crop").pixels.shape == (224, 224, 3)
    assert decoded(line, height=224, width=224, fit="pad").pixels.shape == (224, 224, 3)
    with pytest.raises(InvalidArgument, match=r"image 0 of 50000x1 pixels becomes 11200000x224 once resized"):
        decoded(line, height=224)


@pytest.mark.parametrize("side", [2_000, 10_000, 60_000])
def test_bombs_are_refused_before_decoding(side: int) -> None:
    """A header that tells of too many pixels is enough, below and above Pillow's own limits."""
    with pytest.raises(InvalidArgument, match=r"image 4 (has|is too large)") as caught:
        decoded(png_bomb(side, side), index=4)
    assert str(side * side) in caught.value.message


def test_the_pixel_limit_is_exact() -> None:
    """At the limit an image is decoded, one pixel above it is not."""
    assert decoded(plain(100, 10), max_pixels=1000).width == 100
    with pytest.raises(InvalidArgument, match="image 0 has 100x10 = 1000 pixels: at most 999 are decoded"):
        decoded(plain(100, 10), max_pixels=999)


def test_empty_data_is_named() -> None:
    """An empty string is no image."""
    with pytest.raises(InvalidArgument, match="image 3 is empty: expected JPEG, PNG, GIF, BMP, WEBP or TIFF"):
        decoded(b"", index=3)


@pytest.mark.parametrize("data", [b"hello", b"\x00" * 100, b"\xff\xd8", b"%PDF-1.7 \n", b"\x89PNG\r\n\x1a\n"])
def test_no_image_is_named(data: bytes) -> None:
    """What is no image, or only its first bytes, is refused with its place in the request."""
    with pytest.raises(InvalidArgument, match=r"image 1[ :]"):
        decoded(data, index=1)


@pytest.mark.parametrize(
    ("file_format", "name"),
    [
        ("PPM", "a Netpbm image"),
        ("ICO", "a Windows icon"),
        ("PCX", "a PCX image"),
        ("SGI", "an SGI image"),
        ("JPEG2000", "a JPEG 2000 image"),
        ("AVIF", "an AVIF image"),
        ("EPS", "a PostScript file"),
        ("DDS", "a DirectDraw texture"),
    ],
)
def test_other_parsers_are_out_of_reach(file_format: str, name: str) -> None:
    """Formats besides the six are not parsed at all, though Pillow could; they are told by name."""
    with pytest.raises(InvalidArgument, match=f"image 0: {name}.* can't be read; (convert|render) it to"):
        decoded(encoded(Image.new("RGB", (32, 32), RED), file_format))


def test_what_has_no_name_is_told_by_its_first_bytes() -> None:
    """A Targa image begins like anything."""
    with pytest.raises(InvalidArgument, match=r"image 0 .*beginning b'.*'. is no image: expected JPEG, PNG, GIF"):
        decoded(encoded(Image.new("RGB", (32, 32), RED), "TGA"))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_images_are_refused(file_format: str, part: float) -> None:
    """Half a file is no image, and Pillow's switch that would say otherwise stays off."""
    data = encoded(photo(64, 64), file_format)
    with pytest.raises(InvalidArgument, match=r"image 7 "):
        decoded(data[: int(len(data) * part)], index=7)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_damaged_images_are_refused_or_decoded(file_format: str) -> None:
    """Whatever bytes are turned over, the answer is an image or InvalidArgument: no other exception."""
    data = encoded(photo(32, 32), file_format)
    generator = np.random.default_rng(7)
    refusals = []
    for _ in range(150):
        broken = bytearray(data)
        for place in generator.integers(0, min(len(data), 400), 3):
            broken[place] = generator.integers(256)
        try:
            decoded(bytes(broken), height=8, width=8)
        except InvalidArgument as error:
            refusals.append(error.message)
    assert refusals
    assert all(message.startswith(("image 0 ", "image 0: ")) for message in refusals)


def test_float_inputs_are_scaled() -> None:
    """A float input is pixel * scale + offset, one number for all channels or one for each."""
    pixels = np.full((1, 2, 2, 3), 100, np.uint8)
    plain_values = scale_pixels(pixels, np.dtype(np.float32), ImageSettings())
    assert plain_values.dtype == np.float32
    assert (plain_values == 100).all()
    values = scale_pixels(pixels, np.dtype(np.float64), ImageSettings(scale=(1.0, 2.0, 0.5), offset=-1.0))
    assert values[0, 0, 0].tolist() == [99.0, 199.0, 49.0]
    assert scale_pixels(pixels, np.dtype(np.float16), ImageSettings(scale=1 / 255)).dtype == np.float16


def test_integer_inputs_are_scaled_only_where_set() -> None:
    """Integer inputs get pixels; with a scale the result is rounded and cut to the type's range."""
    pixels = np.array([[[0], [100], [255]]], np.uint8)
    assert scale_pixels(pixels, np.dtype(np.uint8), ImageSettings()) is pixels
    assert scale_pixels(pixels, np.dtype(np.int32), ImageSettings()).ravel().tolist() == [0, 100, 255]
    assert scale_pixels(pixels, np.dtype(np.int8), ImageSettings()).ravel().tolist() == [0, 100, 127]
    signed = scale_pixels(pixels, np.dtype(np.int8), ImageSettings(offset=-128.0))
    assert signed.ravel().tolist() == [-128, -28, 127]
    assert scale_pixels(pixels, np.dtype(np.uint8), ImageSettings(scale=2.0)).ravel().tolist() == [0, 200, 255]


def test_scale_for_other_channels_is_told() -> None:
    """Three numbers for a grey input: the message names the key and both counts."""
    with pytest.raises(FailedPrecondition, match=r"scale .* has 3 numbers: its image input has 1 channels"):
        scale_pixels(np.zeros((1, 1, 1), np.uint8), np.dtype(np.float32), ImageSettings(scale=(1.0, 2.0, 3.0)))
