"""Kinds of PNG, JPEG, GIF and BMP against values made by hand: what a sample means is read from the file.

The files are made by handmade_images, from the formats' specifications; Pillow judges none of them.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from encoded_images import encoded, photo
from handmade_images import bmp, chunk, gif, jpeg, png
from thriftserve.errors import InvalidArgument
from thriftserve.models.images import Target, decode
from thriftserve.repository.image_settings import ImageSettings

#: Red, green, blue and a dark grey; the same for BMP.
COLOURS = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
BLACK_WHITE = bytes([0, 0, 0, 0, 255, 255, 255, 0])
WHITE_BLACK = BLACK_WHITE[4:] + BLACK_WHITE[:4]
SIXTEEN_GREYS = b"".join(bytes([level] * 3 + [0]) for level in range(16))
RGB16 = [[[0, 255, 256], [384, 32767, 65535]]]


def row(data: bytes, channels: int, **settings: Any) -> list[Any]:
    """The pixels of the first row; of one channel, its numbers."""
    target = Target(None, None, channels, ImageSettings(**settings))
    pixels = decode(data, target, max_pixels=1_000_000, index=0).pixels[0]
    found: list[Any] = (pixels[:, 0] if channels == 1 else pixels).tolist()
    return found


def words(*numbers: int) -> bytes:
    """Numbers of 16 bits, as PNG has them."""
    return struct.pack(f">{len(numbers)}H", *numbers)


def scaled(sample: int, bits: int) -> int:
    """The sample in 8 bits, to the nearest: whole numbers alone take part."""
    largest = (1 << bits) - 1
    return (2 * sample * 255 + largest) // (2 * largest)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_each_size(bits: int, interlaced: bool) -> None:
    """Black is 0, the largest sample 255, and what lies between is in proportion; 16 bits are rounded, not cut."""
    largest = (1 << bits) - 1
    samples = [0, largest, largest // 2, largest - largest // 3, 1, largest - 1]
    assert row(png([samples] * 5, bits, 0, interlaced=interlaced), 1) == [scaled(sample, bits) for sample in samples]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_transparent_grey_of_each_size(bits: int) -> None:
    """A grey that tRNS names is transparent, in the samples' own size; only as many bits of it count as these have."""
    largest = (1 << bits) - 1
    samples = [0, largest, 1]
    for more in {0, 1 << bits & 0xFFFF}:
        alphas = [pixel[3] for pixel in row(png([samples], bits, 0, trns=words(largest | more)), 4)]
        assert alphas == [0 if sample == largest else 255 for sample in samples]


KINDS: dict[str, tuple[bytes, int, list[Any]]] = {
    "PNG, RGB of 16 bits": (png(RGB16, 16, 2), 3, [[0, 1, 1], [1, 127, 255]]),
    "PNG, RGB of 16 bits, interlaced": (png(RGB16, 16, 2, interlaced=True), 3, [[0, 1, 1], [1, 127, 255]]),
    "PNG, RGB of 16 bits, a colour transparent": (
        png([[[0, 255, 256], [0, 255, 257]]], 16, 2, trns=words(0, 255, 256)),
        4,
        [[0, 1, 1, 0], [0, 1, 1, 255]],
    ),
    "PNG, RGB of 8 bits, a colour transparent": (
        png([[[1, 2, 3], [1, 2, 4]]], 8, 2, trns=words(0x101, 2, 3)),
        4,
        [[1, 2, 3, 0], [1, 2, 4, 255]],
    ),
    "PNG, grey with alpha, 8 bits": (png([[[7, 0], [8, 255]]], 8, 4), 4, [[7, 7, 7, 0], [8, 8, 8, 255]]),
    "PNG, grey with alpha, 16 bits": (
        png([[[0x07FF, 0x00FF], [0x8000, 0xFF00]]], 16, 4),
        4,
        [[8, 8, 8, 1], [128, 128, 128, 254]],
    ),
    "PNG, RGBA of 16 bits": (png([[[0, 255, 256, 0x06FF]]], 16, 6), 4, [[0, 1, 1, 7]]),
    "PNG, transparent over the background": (png([[[200, 0], [200, 255]]], 8, 4), 1, [0, 200]),
    "PNG, palette of 1 bit": (png([[0, 1]], 1, 3, palette=COLOURS[:6]), 3, [[255, 0, 0], [0, 255, 0]]),
    "PNG, palette of 2 bits": (png([[2, 3]], 2, 3, palette=COLOURS), 3, [[0, 0, 255], [9, 9, 9]]),
    "PNG, palette of 4 bits": (png([[2, 3]], 4, 3, palette=COLOURS), 3, [[0, 0, 255], [9, 9, 9]]),
    "PNG, palette of 8 bits to grey": (png([[0, 3]], 8, 3, palette=COLOURS), 1, [76, 9]),
    "PNG, palette with alphas": (
        png([[0, 1, 2]], 8, 3, palette=COLOURS, trns=b"\0\x80"),
        4,
        [[255, 0, 0, 0], [0, 255, 0, 128], [0, 0, 255, 255]],
    ),
    "JPEG, grey": (jpeg([100]), 1, [100] * 8),
    "JPEG, YCbCr, told by nothing": (jpeg([76, 85, 255]), 3, [[254, 0, 0]] * 8),
    "JPEG, YCbCr, JFIF": (jpeg([76, 85, 255], jfif=True), 3, [[254, 0, 0]] * 8),
    "JPEG, YCbCr, Adobe": (jpeg([76, 85, 255], adobe=1), 3, [[254, 0, 0]] * 8),
    "JPEG, YCbCr to grey": (jpeg([76, 85, 255], jfif=True), 1, [76] * 8),
    "JPEG, RGB, Adobe": (jpeg([200, 100, 50], adobe=0), 3, [[200, 100, 50]] * 8),
    "JPEG, RGB, by its components' names": (jpeg([200, 100, 50], names=b"RGB"), 3, [[200, 100, 50]] * 8),
    "JPEG, RGB to grey": (jpeg([200, 100, 50], adobe=0), 1, [124] * 8),
    # Adobe stores inverted inks: 255 is none. Red = 255 * (1 - C) * (1 - K), with C = 1 - 255 / 255, K = 1 - 204 / 255.
    "JPEG, CMYK, Adobe": (jpeg([255, 55, 155, 204], adobe=0), 3, [[204, 44, 124]] * 8),
    # Y, Cb, Cr are those of (254, 0, 0), which libjpeg takes for the complement of inks: (1, 255, 255), inverted.
    "JPEG, YCCK, Adobe": (jpeg([76, 85, 255, 255], adobe=2), 3, [[1, 255, 255]] * 8),
    "GIF": (gif([[0, 1, 2, 3]], COLOURS), 3, [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]),
    "GIF, a colour transparent": (gif([[0, 1]], COLOURS, transparent=1), 4, [[255, 0, 0, 255], [0, 255, 0, 0]]),
    "GIF, a colour beyond the palette transparent": (gif([[2, 9]], COLOURS, transparent=9), 3, [[0, 0, 255], [0] * 3]),
    "GIF, canvas left open": (gif([[1]], COLOURS, canvas=(2, 1)), 4, [[0, 255, 0, 255], [0, 0, 0, 0]]),
    "BMP, 1 bit": (bmp([[0, 1]], 1, BLACK_WHITE, colours=2), 1, [0, 255]),
    "BMP, 1 bit, white first": (bmp([[0, 1]], 1, WHITE_BLACK, colours=2), 1, [255, 0]),
    "BMP, 4 bits, black and white": (bmp([[0, 1, 1, 0]], 4, BLACK_WHITE, colours=2), 1, [0, 255, 255, 0]),
    "BMP, 8 bits, black and white": (bmp([[0, 1, 1, 0]], 8, BLACK_WHITE, colours=2), 1, [0, 255, 255, 0]),
    "BMP, 4 bits, greys in order": (bmp([[0, 1, 2, 15]], 4, SIXTEEN_GREYS, colours=16), 1, [0, 1, 2, 15]),
    "BMP, 8 bits, greys in order": (bmp([[0, 1, 2, 15]], 8, SIXTEEN_GREYS, colours=16), 1, [0, 1, 2, 15]),
    "BMP, 15 bits": (bmp([[0x7C00, 0x03E0, 0x001F]], 16), 3, [[255, 0, 0], [0, 255, 0], [0, 0, 255]]),
    "BMP, 16 bits by masks": (
        bmp([[0xF800, 0x07E0, 0x001F]], 16, masks=struct.pack("<3I", 0xF800, 0x07E0, 0x001F)),
        3,
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
    ),
    "BMP, 24 bits": (bmp([[[1, 2, 3]]], 24), 3, [[3, 2, 1]]),
    "BMP, 32 bits": (bmp([[[1, 2, 3, 4]]], 32), 4, [[3, 2, 1, 255]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    """Each kind of file has the values that its specification gives its samples; JPEG's sums may differ by 1."""
    data, channels, expected = KINDS[kind]
    found = row(data, channels)
    allowed = 1 if kind.startswith("JPEG") else 0
    assert np.shape(found) == np.shape(expected)
    assert np.abs(np.array(found) - expected).max() <= allowed, found


#: An IDAT that ends properly after two of four rows, one pixel each.
HALF_A_GREY = chunk(b"IDAT", zlib.compress(b"\0\x07" * 2))
SQUARE = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 4, 8, 0, 0, 0, 0))
SIGNATURE = b"\x89PNG\r\n\x1a\n"
REFUSED: dict[str, tuple[bytes, str]] = {
    "JPEG, CMYK without Adobe's marker": (jpeg([0, 0, 0, 0]), "image 0: a CMYK JPEG without Adobe's marker"),
    "JPEG of 12 bits": (
        jpeg([0], precision=12, frame=0xC1),
        "image 0: a JPEG of 12-bit samples can't be read; convert",
    ),
    "JPEG, lossless": (jpeg([0], frame=0xC3), "image 0: a lossless JPEG can't be read; convert"),
    "JPEG, hierarchical": (jpeg([0], frame=0xC5), "image 0: a hierarchical or lossless JPEG can't be read"),
    "JPEG of two components": (jpeg([0, 0]), "image 0: a JPEG of 2 colour components can't be read; convert it to RGB"),
    "GIF without a palette": (gif([[1, 9]], None), "image 0: a GIF without a palette can't be read; convert"),
    "GIF, colour beyond the palette": (gif([[1, 9]], COLOURS), "uses colour 9 of a palette of 4 colours"),
    "BMP, colour beyond the palette": (
        bmp([[1, 200]], 8, SIXTEEN_GREYS, colours=16),
        "uses colour 200 of a palette of 16 colours",
    ),
    "BMP, colour beyond a coloured palette": (
        bmp([[1, 200]], 8, SIXTEEN_GREYS[::-1], colours=16),
        "uses colour 200 of a palette of 16 colours",
    ),
    "PNG, colour beyond the palette": (png([[0, 3]], 2, 3, palette=COLOURS[:9]), "uses colour 3 of a palette of 3"),
    "PNG, palette missing": (png([[0]], 8, 3), "its palette has 0 bytes"),
    "PNG, more alphas than colours": (png([[0]], 8, 3, palette=COLOURS, trns=bytes(5)), "transparency of 5 colours"),
    "PNG, tRNS of another colour type": (png([[0]], 8, 0, trns=bytes(6)), "chunk tRNS has 6 bytes: expected 2"),
    "PNG, tRNS damaged": (png([[0]], 8, 0, before=chunk(b"tRNS", b"\0\0", sound=False)), "chunk tRNS is damaged"),
    "PNG, palette damaged": (png([[0]], 8, 3, before=chunk(b"PLTE", COLOURS, sound=False)), "chunk PLTE is damaged"),
    "PNG, tRNS behind the data": (png([[0]], 8, 0, after=chunk(b"tRNS", b"\0\0")), "chunk tRNS is out of place"),
    "PNG, header damaged": (SIGNATURE + chunk(b"IHDR", bytes(13), sound=False), "chunk IHDR is damaged"),
    "PNG, colour type 3 of 16 bits": (png([[0]], 16, 3, palette=COLOURS), "colour type 3 with 16 bits"),
    "PNG, unknown critical chunk": (png([[0]], 8, 0, before=chunk(b"ABCD", b"")), "chunk ABCD is unknown and critical"),
    "PNG of Apple's": (png([[0]], 8, 0, before=chunk(b"CgBI", b"")), "image 0: a PNG optimised for Apple's devices"),
    "PNG, data damaged": (SIGNATURE + SQUARE + HALF_A_GREY[:-1], "not enough image data|ends before"),
    "PNG, rows missing": (
        SIGNATURE + SQUARE + HALF_A_GREY + chunk(b"IEND", b""),
        "image data ends before its last row",
    ),
    "PNG, no data": (SIGNATURE + SQUARE + chunk(b"IEND", b""), "it has no image data"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_one_right_reading_is_refused(kind: str) -> None:
    """A file whose pixels would have to be guessed, or made up, costs an error that says why."""
    data, expected = REFUSED[kind]
    with pytest.raises(InvalidArgument, match=expected):
        row(data, 3)


def test_a_black_last_row_is_no_missing_row() -> None:
    """Rows that are there are taken, whatever colour they have."""
    for level in (0, 171, 255):
        assert row(png([[level]] * 4, 8, 0), 1) == [level]
    assert row(png([[[171, 5, 201]]] * 4, 8, 2), 3) == [[171, 5, 201]]
    assert row(png([[0]] * 4, 8, 0, interlaced=True), 1) == [0]


def test_a_damaged_checksum_of_image_data_is_told() -> None:
    """Pixels that changed on the way are no pixels."""
    data = bytearray(png([[7, 8, 9]] * 3, 8, 0))
    data[data.index(b"IDAT") + 8] ^= 1
    with pytest.raises(InvalidArgument, match="its chunk IDAT is damaged: its checksum is wrong"):
        row(bytes(data), 1)


FOREIGN = {
    "an AVIF image": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
    "a HEIC image": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a HEIF image": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "a JPEG XL image": b"\xff\x0a\xfa\x1f",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n",
    "a video": b"\0\0\0\x18ftypisom\0\0\2\0",
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- one -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an HTML page": b"<!DOCTYPE html><html><svg/></html>",
    "a PDF document": b"%PDF-1.7\n",
    "a PostScript file": b"%!PS-Adobe-3.0 EPSF-3.0",
    "a Windows metafile (WMF or EMF)": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "a DICOM file": bytes(128) + b"DICM",
    "an image in Base64": b"data:image/png;base64,iVBORw0KGgo",
    "a compressed file or an archive": b"\x1f\x8b\x08\0",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_kinds_are_told_by_name(name: str) -> None:
    """Whoever sends something else learns what it was, and what to send."""
    with pytest.raises(InvalidArgument, match=rf"^image 0: {re.escape(name)} can't be read; (convert|render|send) "):
        row(FOREIGN[name], 3)


def test_the_table_of_kinds_is_quick_on_any_text() -> None:
    """No file makes the search for its name slow."""
    with pytest.raises(InvalidArgument):
        row(b"<!" + b"<!---->" * 10_000, 3)


def test_a_resized_transparent_edge_keeps_its_colour() -> None:
    """Colours under full transparency don't bleed into what is seen when an image is resized."""
    picture = np.zeros((8, 8, 4), int)
    picture[:, 4:] = (0, 0, 255, 255)
    data = png(picture, 8, 6)
    target = Target(4, 4, 4, ImageSettings())
    pixels = decode(data, target, max_pixels=1_000_000, index=0).pixels
    assert (pixels[pixels[..., 3] > 0][:, 2] == 255).all()


def test_a_photo_is_what_it_was() -> None:
    """A lossless file of a photo gives its pixels back, in each format."""
    picture = photo(61, 47)
    for name, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        data = encoded(picture, name, **options)
        pixels = decode(data, Target(None, None, 3, ImageSettings()), max_pixels=1_000_000, index=0).pixels
        assert (pixels == np.asarray(picture)).all()
