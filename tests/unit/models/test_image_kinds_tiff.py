"""Kinds of TIFF against values made by hand: every size and format of sample, both polarities, colours, alpha, layouts.

The files are made by handmade_images, from the specification (TIFF 6.0); Pillow judges none of them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoded_images import encoded, photo
from handmade_images import tiff
from thriftserve.errors import InvalidArgument
from thriftserve.models.images import Target, decode
from thriftserve.repository.image_settings import ImageSettings

BLACK_IS_ZERO, WHITE_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 1, 0, 2, 3, 5, 6, 8
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2
PLACES: tuple[dict[str, Any], ...] = ({}, {"rows": 2}, {"tile": (16, 16)}, {"fill_order": 2}, {"big": True})
#: Every way to lay samples out.
LAYOUTS: list[dict[str, Any]] = [
    {"order": order, "compression": compression, **place}
    for order, compression, place in itertools.product("<>", (1, 5, 8, 32773), PLACES)
]
DIFFERENCES: list[dict[str, Any]] = [
    {"order": order, "compression": compression, "predictor": 2, **place}
    for order, compression, place in itertools.product("<>", (5, 8), PLACES[::2])
]


def pixels(data: bytes, channels: int, **settings: Any) -> NDArray[np.uint8]:
    """The decoded image [H, W, channels]; of one channel [H, W]."""
    found = decode(data, Target(None, None, channels, ImageSettings(**settings)), max_pixels=1_000_000, index=0).pixels
    return found[:, :, 0] if channels == 1 else found


def scaled(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Samples in 8 bits, to the nearest: whole numbers alone take part."""
    largest = (1 << bits) - 1
    return (2 * samples.astype(object) * 255 + largest) // (2 * largest)


def samples_of(bits: int, *shape: int) -> NDArray[np.int64]:
    """Samples of all kinds, the smallest and the largest among them."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, shape)
    values.flat[:2] = 0, (1 << bits) - 1
    return values


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("bits", range(1, 33))
def test_grey_of_each_size(bits: int, photometric: int) -> None:
    """Grey of 1 to 32 bits fills 0 to 255, in both polarities, however it is laid out and compressed."""
    samples = samples_of(bits, 19, 21)
    expected = scaled(samples, bits) if photometric == BLACK_IS_ZERO else 255 - scaled(samples, bits)
    for layout in LAYOUTS + (DIFFERENCES if bits in (8, 16, 32) else []):
        assert (pixels(tiff(samples, bits, photometric, **layout), 1) == expected).all(), layout


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [2, 8, 12, 16, 32])
def test_colours_and_alpha_of_each_size(bits: int, planar: bool) -> None:
    """RGB with and without alpha, and grey with alpha, together or in planes."""
    samples = samples_of(bits, 19, 21, 4)
    expected = scaled(samples, bits)
    for layout in LAYOUTS + (DIFFERENCES if bits in (8, 16, 32) else []):
        options = layout | {"planar": planar}
        assert (pixels(tiff(samples[..., :3], bits, RGB, **options), 3) == expected[..., :3]).all(), layout
        extra = {"ExtraSamples": UNASSOCIATED}
        assert (pixels(tiff(samples, bits, RGB, tags=extra, **options), 4) == expected).all(), layout
        grey = pixels(tiff(samples[..., :2], bits, BLACK_IS_ZERO, tags=extra, **options), 4)
        assert (grey == expected[..., [0, 0, 0, 1]]).all(), layout


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_multiplied_with_alpha(bits: int) -> None:
    """Associated alpha is divided out; what is fully transparent is black; an unspecified sample is no alpha."""
    largest = (1 << bits) - 1
    half = (largest + 1) // 2
    samples = np.array([[[half, 0, half // 2, half], [7, 7, 7, 0], [largest, 0, 0, largest]]])
    associated = pixels(tiff(samples, bits, RGB, tags={"ExtraSamples": ASSOCIATED}), 4)
    assert associated[0].tolist() == [[255, 0, 128, 128], [0, 0, 0, 0], [255, 0, 0, 255]]
    grey = pixels(tiff(samples[..., [0, 3]], bits, BLACK_IS_ZERO, tags={"ExtraSamples": ASSOCIATED}), 4)
    assert grey[0].tolist() == [[255, 255, 255, 128], [0, 0, 0, 0], [255] * 4]
    ignored = pixels(tiff(samples, bits, RGB, tags={"ExtraSamples": UNSPECIFIED}), 4)
    assert (ignored == np.concatenate([scaled(samples[..., :3], bits), np.full((1, 3, 1), 255)], axis=2)).all()


def test_white_is_zero_with_alpha() -> None:
    """The polarity is that of the colours: alpha stays as it is."""
    data = tiff([[[0, 255], [255, 0]]], 8, WHITE_IS_ZERO, tags={"ExtraSamples": UNASSOCIATED})
    assert pixels(data, 4)[0].tolist() == [[255, 255, 255, 255], [0, 0, 0, 0]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_palettes_of_each_size(bits: int) -> None:
    """A palette's 16 bits become 8, whether its writer multiplied by 256 or by 257."""
    colours = np.random.default_rng(1).integers(0, 256, (1 << bits, 3))
    colours[0] = 255
    indices = samples_of(bits, 19, 21)
    layouts = LAYOUTS if bits < 16 else LAYOUTS[::9]
    for step, layout in itertools.product((256, 257), layouts):
        data = tiff(indices, bits, PALETTE, tags={"ColorMap": (colours.T * step).ravel().tolist()}, **layout)
        assert (pixels(data, 3) == colours[indices]).all(), layout


@pytest.mark.parametrize("bits", [8, 16])
def test_inks(bits: int) -> None:
    """CMYK: 0 is no ink; red is what cyan and black leave."""
    largest = (1 << bits) - 1
    samples = np.array([[[0, 0, 0, 0], [largest, 0, 0, 0], [0, 0, 0, largest], [0, largest // 5, 0, largest // 5]]])
    for planar in (False, True):
        found = pixels(tiff(samples, bits, CMYK, planar=planar), 3)
        assert found[0].tolist() == [[255] * 3, [0, 255, 255], [0] * 3, [204, 163, 204]]


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_luminance_and_chroma(compression: int) -> None:
    """YCbCr, one chroma sample for each pixel or, as where nothing is told, for each square of four."""
    every = tiff([[[76, 85, 255], [29, 255, 107], [128, 128, 128]]], 8, YCBCR, compression=compression,
                 tags={"YCbCrSubSampling": [1, 1]})  # fmt: skip
    expected = np.array([[254, 0, 0], [0, 0, 254], [128] * 3])
    assert np.abs(pixels(every, 3)[0].astype(int) - expected).max() <= 1
    # Four of Y, then Cb and Cr of all four.
    squares = tiff([[10, 20, 30, 40, 128, 200, 50, 60, 70, 80, 128, 128]], 8, YCBCR, compression=compression, tags={
        "ImageWidth": 4, "ImageLength": 2, "SamplesPerPixel": 3, "BitsPerSample": [8] * 3, "RowsPerStrip": 2,
        "SampleFormat": None,
    })  # fmt: skip
    red = [round(luminance + 1.402 * 72) for luminance in (10, 20, 30, 40)]
    assert pixels(squares, 3)[..., 0].tolist() == [[red[0], red[1], 50, 60], [red[2], red[3], 70, 80]]


def test_subsampled_data_at_the_files_end() -> None:
    """Uncompressed YCbCr takes the bytes that the directory tells, which are fewer than three a pixel."""
    tags = {"ImageWidth": 2, "ImageLength": 2, "SamplesPerPixel": 3, "BitsPerSample": [8] * 3}
    tags |= {"SampleFormat": None, "RowsPerStrip": 2}
    head = tiff([[0] * 6], 8, YCBCR, tags=tags | {"StripOffsets": ("long", [1000])}).ljust(1000, b"\0")
    assert pixels(head + bytes([10, 20, 30, 40, 128, 128]), 1).tolist() == [[10, 20], [30, 40]]
    with pytest.raises(InvalidArgument, match="it is cut off"):
        pixels(head + bytes([10, 20, 30, 40, 128]), 1)


def test_lab() -> None:
    """CIE L*a*b* under D50 as sRGB: white, black, and colours by the CIE's formula."""
    samples = [[[255, 0, 0], [0, 0, 0], [128, 0, 0], [100, -60, 30], [200, 20, -40]]]
    expected = [[255] * 3, [0] * 3, [119] * 3, [0, 113, 37], [202, 183, 255]]
    assert np.abs(pixels(tiff(samples, 8, CIELAB), 3)[0].astype(int) - expected).max() <= 1


SIGNED = {"SampleFormat": 2, "SMinSampleValue": ("sshort", [-100]), "SMaxSampleValue": ("sshort", [100])}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_samples_of_a_declared_range(bits: int, order: Any) -> None:
    """Signed samples fill 0 to 255 from the smallest to the largest value that the file declares."""
    samples = [[-100, 0, 100, -50]]
    assert pixels(tiff(samples, bits, order=order, tags=SIGNED), 1)[0].tolist() == [0, 128, 255, 64]
    inverted = tiff(samples, bits, WHITE_IS_ZERO, order=order, tags=SIGNED)
    assert pixels(inverted, 1)[0].tolist() == [255, 127, 0, 191]


UNIT = {"SMinSampleValue": ("float", [0.0]), "SMaxSampleValue": ("float", [1.0])}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_samples_of_a_declared_range(dtype: Any, order: Any) -> None:
    """Floating-point samples from 0 to 1, where the file declares that: 16, 32 and 64 bits, grey and RGB."""
    samples = np.array([[0, 0.25, 0.5, 1]], dtype)
    bits = samples.itemsize * 8
    for compression in (1, 8):
        data = tiff(samples, bits, order=order, compression=compression, tags=UNIT)
        assert pixels(data, 1)[0].tolist() == [0, 64, 128, 255]
    if bits < 64:
        assert pixels(tiff(samples[:, None, :3], bits, RGB, order=order, tags=UNIT), 3)[0, 0].tolist() == [0, 64, 128]


@pytest.mark.parametrize("sample", [1.5, -0.1, np.nan, np.inf])
def test_samples_outside_the_declared_range_are_refused(sample: float) -> None:
    """A range that the samples don't keep to says nothing about them."""
    with pytest.raises(InvalidArgument, match="outside the range 0 to 1 that it declares"):
        pixels(tiff(np.array([[0, sample]], np.float32), 32, tags=UNIT), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_kinds_that_are_read_here(orientation: int) -> None:
    """A TIFF of 12 bits is set upright as others are."""
    corner = [[4095, 0, 0], [0, 0, 0]]
    found = pixels(tiff(corner, 12, tags={"Orientation": orientation}), 1)
    # Where the stored image's first corner belongs: TIFF 6.0, page 36.
    row, column = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
        orientation
    ]
    assert found.shape == ((2, 3) if orientation <= 4 else (3, 2))
    assert (found[row, column], found.sum()) == (255, 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "LA", "RGBA"])
def test_jpeg_in_tiff(mode: str) -> None:
    """JPEG within TIFF comes out near what went in."""
    picture = photo(64, 48).convert(mode)
    found = pixels(encoded(picture, "TIFF", compression="jpeg"), 3)
    assert np.abs(found.astype(int) - np.asarray(picture.convert("RGB"))).mean() < 5


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_fax_in_tiff(compression: str) -> None:
    """Fax compression gives back every pixel."""
    picture = photo(64, 48).convert("1")
    assert (pixels(encoded(picture, "TIFF", compression=compression), 1) == np.asarray(picture) * 255).all()


GREY = np.arange(12).reshape(3, 4)
FOUR = np.zeros((2, 2, 4), int)
REFUSED: dict[str, tuple[bytes, str]] = {
    "no polarity": (tiff(GREY, 8, None), "image 0: a TIFF that doesn't say what its samples mean"),
    "mask": (tiff(GREY % 2, 1, 4), "image 0: a TIFF that is a transparency mask can't be read"),
    "raw": (tiff(GREY, 8, 32803), "image 0: a camera's raw file"),
    "DNG": (tiff(GREY, 8, tags={"DNGVersion": ("byte", [1, 4, 0, 0])}), "image 0: a camera's raw file"),
    "Canon's raw": (tiff([[67, 82, 2, 0]], 8), "image 0: a camera's raw file"),
    "preview": (tiff(GREY, 8, tags={"NewSubfileType": 1}), "image 0: .*TIFF that begins with a preview"),
    "unknown colours": (tiff(GREY, 8, 77), "image 0: a TIFF with PhotometricInterpretation 77 can't be read"),
    "signed": (tiff(GREY, 16, tags={"SampleFormat": 2}), "a TIFF of signed 16-bit samples without a known range"),
    "signed 24 bits": (tiff(GREY, 24, tags=SIGNED), "image 0: a TIFF of signed 24-bit samples can't be read; save it"),
    "floating point": (tiff(GREY / 12, 64), "image 0: a TIFF of floating-point 64-bit samples without a known range"),
    "one end of a range": (
        tiff(GREY / 12, 64, tags={"SMinSampleValue": ("float", [0.0])}),
        "floating-point 64-bit samples without a known range",
    ),
    "no end of a range": (
        tiff(GREY / 12, 64, tags=UNIT | {"SMaxSampleValue": ("float", [np.inf])}),
        "floating-point 64-bit samples without a known range",
    ),
    "complex": (tiff(GREY, 32, tags={"SampleFormat": 6}), "image 0: a TIFF with SampleFormat 6 can't be read; save it"),
    "64 bits": (tiff(GREY, 64), "image 0: a TIFF of unsigned 64-bit samples can't be read; save it with 8 or 16"),
    "fourth sample": (tiff(FOUR, 8, RGB), r"doesn't say what 1 of its samples are \(ExtraSamples\)"),
    "two samples": (tiff(FOUR[..., :2], 8), "doesn't say what 1 of its samples are"),
    "mixed sizes": (tiff(FOUR[..., :3], 8, RGB, tags={"BitsPerSample": [5, 6, 5]}), "samples of 5 and 6 and 5 bits"),
    "compression": (tiff(GREY, 8, tags={"Compression": 34712}), "image 0: a TIFF with compression 34712 can't be read"),
    "predictor": (tiff(GREY, 8, compression=8, tags={"Predictor": 3}), "8-bit samples with predictor 3"),
    "other inks": (tiff(FOUR, 8, CMYK, tags={"InkSet": 2}), "image 0: a TIFF of other inks than CMYK"),
    "dot range": (tiff(FOUR, 8, CMYK, tags={"DotRange": [255, 0]}), "image 0: .* or of a range of its own"),
    "palette of 8 bits": (tiff(GREY, 8, PALETTE, tags={"ColorMap": [255] * 768}), "palette has 8 bits a colour"),
    "palette cut off": (tiff(GREY, 8, PALETTE, tags={"ColorMap": [65535] * 3}), "palette has 3 numbers: expected 768"),
    "palette multiplied": (
        tiff(FOUR[..., :2], 8, PALETTE, tags={"ColorMap": [65535] * 768, "ExtraSamples": ASSOCIATED}),
        "multiplied with alpha, inverted, in CMYK or with a palette",
    ),
    "L*a*b* of 16 bits": (tiff(FOUR[..., :3], 16, CIELAB), r"16-bit samples in YCbCr or L\*a\*b\* can't be read"),
    "strips missing": (tiff(GREY, 8, rows=1, tags={"ImageLength": 100}), "fewer strips or tiles than the 100"),
    "billions of strips": (
        tiff(GREY, 8, rows=1, tags={"ImageLength": ("long", [(1 << 32) - 1])}),
        "fewer strips or tiles than the 4294967295",
    ),
    "data missing": (tiff(GREY, 8, tags={"StripOffsets": ("long", [200])}), "it is cut off"),
    "strips that overlap": (
        tiff(GREY, 8, compression=8, rows=1, tags={
            "StripOffsets": ("long", [8] * 3), "StripByteCounts": ("long", [150] * 3),
        }),
        "its strips or tiles overlap",
    ),
    "a huge tile": (
        tiff(GREY, 8, tile=(16, 16), tags={"TileWidth": ("long", [1 << 20]), "TileLength": ("long", [1 << 12])}),
        "declares tiles of 1048576x4096",
    ),
    "no directory": (tiff(GREY, 8)[:20], "it has no directory"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_one_right_reading_is_refused(kind: str) -> None:
    """A TIFF whose pixels would have to be guessed, or made up, costs an error that says why."""
    data, expected = REFUSED[kind]
    with pytest.raises(InvalidArgument, match=expected):
        pixels(data, 3)
