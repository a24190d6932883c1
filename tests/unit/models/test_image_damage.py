"""Damaged image files: what is sound of them is read, what is not is refused, and nothing is made up."""

from __future__ import annotations

import re
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoded_images import encoded, oriented, photo, plain
from handmade_images import chunk, jpeg, png, segment, tiff
from thriftserve.errors import InvalidArgument
from thriftserve.models.images import DecodedImage, Target, decode
from thriftserve.repository.image_settings import ImageSettings

MEGABYTE = 1 << 20


def decoded(data: bytes, max_pixels: int = 1_000_000, channels: int = 3, size: int | None = None) -> DecodedImage:
    return decode(data, Target(size, size, channels, ImageSettings()), max_pixels=max_pixels, index=0)


#: Chunks that PNG doesn't need for its pixels, large or damaged.
ANCILLARY = {
    "a colour profile that inflates to 8 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(8 * MEGABYTE))),
    "a colour profile of an unknown compression": chunk(b"iCCP", b"x\0\7"),
    "a colour profile of no name": chunk(b"iCCP", b"x" * 100),
    "compressed text that inflates to 8 MB": chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(8 * MEGABYTE))),
    "compressed text of an unknown compression": chunk(b"zTXt", b"x\0\7x"),
    "text of 65 MB": chunk(b"tEXt", b"x\0" + bytes(65 * MEGABYTE)),
    "text with a wrong checksum": chunk(b"tEXt", b"x\0x", sound=False),
    "international text that inflates to 8 MB": chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(8 * MEGABYTE))),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"MM\0*", sound=False),
    "EXIF that is none": chunk(b"eXIf", b"\xff" * 50),
    "XMP that inflates to 8 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(8 * MEGABYTE))),
    "EXIF in text that is no hexadecimal": chunk(b"tEXt", b"Raw profile type exif\0\n\n\nxyz"),
    "EXIF in compressed text that is damaged": chunk(b"zTXt", b"Raw profile type exif\0\0damaged"),
    "a physical size cut off": chunk(b"pHYs", b"1"),
    "a gamma cut off": chunk(b"gAMA", b"1"),
    "chromaticities cut off": chunk(b"cHRM", b"1"),
    "an animation's header cut off": chunk(b"acTL", b"1"),
    "a frame's header out of order": chunk(b"fcTL", struct.pack(">IIIIIHHBB", 7, 99, 99, 0, 0, 1, 1, 0, 0)),
    "an unknown chunk with a wrong checksum": chunk(b"abCD", b"", sound=False),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ANCILLARY)
def test_png_is_read_without_its_ancillary_chunks(kind: str, place: str) -> None:
    """Text and profiles cost no image, whatever is wrong with them, and no memory."""
    surrounding: dict[str, bytes] = {place: ANCILLARY[kind]}
    data = png([[7, 8], [9, 10]], 8, 0, **surrounding)  # type: ignore[arg-type]  # the two are of bytes
    assert decoded(data, channels=1).pixels[..., 0].tolist() == [[7, 8], [9, 10]]


def test_png_without_its_end_is_read() -> None:
    """Where all rows are there, the end chunk is not needed; where it stops before, it is no image."""
    whole = png([[7]] * 50, 8, 0, end=b"")
    assert (decoded(whole, channels=1).pixels == 7).all()
    for cut in range(20, len(whole) - 12):
        try:
            found = decoded(whole[:cut], channels=1)
        except InvalidArgument:
            continue
        assert (found.pixels == 7).all(), cut


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXIF_6 = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
HEXADECIMAL = b"\nexif\n%8d\n%b\n" % (len(EXIF_6) + 6, (b"Exif\0\0" + EXIF_6).hex().encode())
ORIENTED = {
    "eXIf": chunk(b"eXIf", EXIF_6),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "iTXt compressed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    "tEXt": chunk(b"tEXt", b"Raw profile type exif\0" + HEXADECIMAL),
    "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEXADECIMAL)),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ORIENTED)
def test_png_is_set_upright_by_each_chunk_that_may_say_so(kind: str, place: str) -> None:
    """The orientation is read from EXIF, XMP, and the EXIF that ImageMagick writes as text."""
    surrounding: dict[str, bytes] = {place: ORIENTED[kind]}
    data = png([[1, 2, 3], [4, 5, 6]], 8, 0, **surrounding)  # type: ignore[arg-type]  # the two are of bytes
    found = decoded(data, channels=1)
    assert (found.width, found.height) == (2, 3)
    assert found.pixels[..., 0].tolist() == [[4, 1], [5, 2], [6, 3]]


#: Segments that a JPEG doesn't need for its pixels.
SEGMENTS = {
    "a colour profile cut off": segment(0xE2, b"ICC_PROFILE\0"),
    "Adobe's marker cut off": segment(0xEE, b"Adobe"),
    "JFIF's marker cut off": segment(0xE0, b"JFIF\0"),
    "Photoshop's data cut off": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
    "EXIF that is empty": segment(0xE1, b"Exif\0\0"),
    "EXIF that points nowhere": segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own words about it; no error in a server
def test_jpeg_is_read_without_its_metadata(kind: str) -> None:
    """Damaged metadata costs no image; the colours are still those of Adobe's whole marker."""
    assert (decoded(jpeg([100], before=SEGMENTS[kind]), channels=1).pixels == 100).all()
    rgb = jpeg([200, 100, 50], before=SEGMENTS[kind], adobe=0)
    assert (decoded(rgb).pixels == [200, 100, 50]).all()


@pytest.mark.parametrize("metadata", [b"Exif\0\0" + EXIF_6, b"http://ns.adobe.com/xap/1.0/\0" + XMP])
def test_jpeg_is_set_upright_though_other_metadata_is_damaged(metadata: bytes) -> None:
    """What is sound of a file's metadata still counts."""
    before = segment(0xE1, metadata) + SEGMENTS["a colour profile cut off"]
    found = decoded(jpeg([100], width=24, height=8, before=before), channels=1)
    assert (found.width, found.height) == (8, 24)


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "with restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}


def jpeg_of(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(photo(width, height).convert(mode), "JPEG", quality=85, **options)


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_that_lacks_its_end_alone_is_read(kind: str) -> None:
    """Without its last two bytes it is the same image, also where it is decoded at a smaller scale."""
    data = jpeg_of(200, 130, **JPEGS[kind])
    assert (decoded(data[:-2]).pixels == decoded(data).pixels).all()
    assert (decoded(data[:-2], size=30).pixels == decoded(data, size=30).pixels).all()


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_that_lacks_data_is_refused(kind: str, end: bytes) -> None:
    """Of an image cut anywhere within its data nothing is made up; of several scans that shows where no end follows."""
    data = jpeg_of(64, 48, **JPEGS[kind])
    whole = decoded(data).pixels
    if kind == "progressive" and end:
        return
    cuts = [*range(3, 40), len(data) // 3, len(data) // 2]
    refused = 0
    for cut in cuts:
        try:
            found = decoded(data[:-cut] + end)
        except InvalidArgument:
            refused += 1
        else:  # bits that nobody needed, or, before an end, about as few as libjpeg looks ahead
            assert (found.pixels == whole).all() or (end and cut < 16), cut
    assert refused >= len(cuts) - 13


@pytest.mark.parametrize("restarts", [0, 1])
def test_jpeg_that_lacks_scans_is_refused(restarts: int) -> None:
    """A progressive file that ends between two scans, or two restarts, would be decoded with less than it had."""
    data = jpeg_of(200, 130, progressive=True, restart_marker_rows=restarts)
    markers = [found.start() for found in re.finditer(rb"\xff[\xc4\xd0-\xd7\xda]", data)]
    assert len(markers) > 10
    for at in markers[1:]:
        with pytest.raises(InvalidArgument):
            decoded(data[:at])


def test_jpeg_with_more_behind_its_end_is_read() -> None:
    """Cameras and editors append to JPEG files."""
    data = jpeg_of(64, 48)
    for more in (b"\0" * 20, b"\n", data):
        assert (decoded(data + more).pixels == decoded(data).pixels).all()


def webp_with(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    """A WebP that ends in one more chunk, whose header tells of `length` bytes."""
    image = encoded(photo(24, 16), "WEBP", lossless=True)[12:]
    flags = {b"EXIF": 0x08, b"XMP ": 0x04, b"ICCP": 0x20}[kind]
    extended = b"VP8X" + struct.pack("<IB3x", 10, flags) + (23).to_bytes(3, "little") + (15).to_bytes(3, "little")
    more = kind + struct.pack("<I", len(body) if length is None else length) + body
    chunks = extended + (more + image if kind == b"ICCP" else image + more)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


@pytest.mark.parametrize("length", [None, 1000])
@pytest.mark.parametrize(("kind", "body"), [(b"EXIF", b"\xff" * 30), (b"XMP ", b"\xff" * 30)])
def test_webp_is_read_without_its_metadata(kind: bytes, body: bytes, length: int | None) -> None:
    """Metadata that is damaged or cut off costs no image."""
    assert (decoded(webp_with(kind, body, length)).pixels == np.asarray(photo(24, 16))).all()


def test_webp_is_read_without_its_profile() -> None:
    """A colour profile that is none costs no image."""
    assert (decoded(webp_with(b"ICCP", b"\xff" * 30)).pixels == np.asarray(photo(24, 16))).all()


def test_tiff_is_read_without_its_metadata() -> None:
    """Tags that don't matter for pixels are not looked at: an EXIF directory that lies nowhere, for one."""
    whole = encoded(photo(24, 16), "TIFF", tiffinfo={0x8769: 8, 700: b"x"})
    assert (decoded(whole).pixels == np.asarray(photo(24, 16))).all()
    at = whole.index(struct.pack("<HHI", 0x8769, 4, 1)) + 8
    nowhere = whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :]
    assert (decoded(nowhere).pixels == np.asarray(photo(24, 16))).all()


#: A file of 100 x 80 pixels in each format; TIFF by libtiff alone, and by way of samples.
EACH_FORMAT = {
    **{name: encoded(photo(100, 80), name) for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")},
    "JPEG in TIFF": encoded(photo(100, 80), "TIFF", compression="jpeg"),
    "TIFF of 12 bits": tiff(np.zeros((80, 100), int), 12),
    "PNG of 16 bits": png(np.zeros((80, 100), int), 16, 0),
}


@pytest.mark.parametrize("kind", EACH_FORMAT)
def test_the_setting_alone_limits_pixels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images above Pillow's own limit are decoded where the server's is higher; one pixel too many is refused."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decoded(EACH_FORMAT[kind], max_pixels=8000).pixels.shape == (80, 100, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(InvalidArgument, match="image 0 has 100x80 = 8000 pixels: at most 7999 are decoded"):
        decoded(EACH_FORMAT[kind], max_pixels=7999)
    assert Image.MAX_IMAGE_PIXELS == 1_000_000


@pytest.mark.parametrize("kind", EACH_FORMAT)
def test_nothing_is_decoded_over_the_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header is enough to refuse an image: no decoder is made, and no canvas."""

    def decoder(*_: Any) -> Any:
        raise AssertionError("a decoder was made")

    monkeypatch.setattr(Image, "_getdecoder", decoder)
    if kind == "WEBP":
        monkeypatch.setattr("PIL._webp.WebPAnimDecoder", decoder)
    with pytest.raises(InvalidArgument, match="image 0 has 100x80"):
        decoded(EACH_FORMAT[kind], max_pixels=100)


def test_a_gif_frame_beyond_its_canvas_counts() -> None:
    """The limit is for what is decoded, not for what the first bytes tell."""
    data = bytearray(encoded(photo(100, 80), "GIF"))
    data[6:10] = struct.pack("<HH", 10, 10)
    with pytest.raises(InvalidArgument, match="image 0 has 100x80"):
        decoded(bytes(data), max_pixels=100)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_any_cut_gives_the_image_or_an_error(file_format: str) -> None:
    """Wherever a lossless file is cut off, the answer is the whole image or a refusal, within a moment."""
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "GIF": {}}.get(file_format, {})
    data = (
        oriented(photo(40, 30), 3, file_format)
        if file_format == "JPEG"
        else encoded(photo(40, 30), file_format, **options)
    )
    whole = decoded(data).pixels
    began = time.monotonic()
    for cut in range(len(data)):
        try:
            found = decoded(data[:cut])
        except InvalidArgument:
            continue
        assert (found.pixels == whole).all(), cut
    assert time.monotonic() - began < 60


def test_a_message_names_no_object_of_the_process() -> None:
    """What Pillow says of a damaged header is put into words that help."""
    with pytest.raises(InvalidArgument) as caught:
        decoded(b"GIF89a" + plain()[:20])
    assert "object at" not in caught.value.message
