"""PNG files: their chunks are read here, Pillow inflates and unfilters the image data.

    bytes --> chunks: header, palette, transparency, image data --> OpenedImage --> 8 bits

Only what decides about pixels is read, and the orientation. Text, colour profiles and everything else that is
ancillary is skipped unseen, however large or damaged. https://www.w3.org/TR/png-3/ has the format.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftserve.models.image_formats.opened import EXIF, XMP, Draft, OpenedImage, UnreadableKind, find_orientation
from thriftserve.models.image_formats.samples import bands, check_palette, to_eight_bits

if TYPE_CHECKING:
    from PIL.Image import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
#: Colour type and bits of a sample -> Pillow's mode and how its rows are laid out.
_LAYOUTS = {
    (GREY, 1): ("1", "1"),
    (GREY, 2): ("L", "L;2"),
    (GREY, 4): ("L", "L;4"),
    (GREY, 8): ("L", "L"),
    (GREY, 16): ("I;16", "I;16B"),
    (RGB, 8): ("RGB", "RGB"),
    (RGB, 16): ("RGB", "RGB;16B"),
    (PALETTE, 1): ("P", "P;1"),
    (PALETTE, 2): ("P", "P;2"),
    (PALETTE, 4): ("P", "P;4"),
    (PALETTE, 8): ("P", "P"),
    (GREY_ALPHA, 8): ("LA", "LA"),
    # Four bytes a pixel, whatever they mean: the high and low byte of grey, then of alpha.
    (GREY_ALPHA, 16): ("RGBA", "RGBA"),
    (RGBA, 8): ("RGBA", "RGBA"),
    (RGBA, 16): ("RGBA", "RGBA;16B"),
}
_SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
#: Adam7's passes: first column, first row, columns apart, rows apart.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: By mode, what few pixels are: if the last row begins like this, the data is checked for it.
_UNLIKELY: dict[str, int | tuple[int, ...]] = {
    "1": 0,
    "L": 171,
    "P": 171,
    "I;16": 0xAB55,
    "LA": (171, 85),
    "RGB": (171, 5, 201),
    "RGBA": (171, 5, 201, 85),
}
#: Metadata that may hold the orientation is read up to this size once it is inflated.
_METADATA_BYTES = 1 << 20
#: Bytes that become 16 MB at most.
_INFLATED_AT_ONCE = 1 << 14
_NAME = re.compile(rb"[A-Za-z]{4}").fullmatch
#: Chunks that are read. The checksums of others are not checked.
_CHECKED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"tEXt", b"zTXt", b"iTXt"}


@dataclass
class _Parts:
    """What of a file decides about its pixels."""

    header: bytes = b""
    palette: bytes = b""
    transparency: bytes = b""
    data: list[memoryview] = field(default_factory=list)
    metadata: dict[str | tuple[int, int], Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _PngHeader:
    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool


def open_png(data: bytes) -> OpenedImage:
    """Read the chunks of a PNG.

    Raises:
        UnreadableKind: It is no PNG by the specification, but a kind of its own.
        ValueError: A chunk that decides about pixels is damaged or missing.
    """
    parts = _read_parts(data)
    header = _header(parts.header)
    transparency = _read_transparency(header, parts)
    if not parts.data:
        raise ValueError("it has no image data")

    def load(_draft: Draft | None) -> Image:
        return _decode(header, parts.palette, transparency, b"".join(parts.data))

    return OpenedImage("PNG", header.width, header.height, find_orientation(parts.metadata), load)


def _read_parts(data: bytes) -> _Parts:
    parts = _Parts()
    for kind, body, sound in _chunks(data):
        if kind == b"IDAT":
            _check(kind, sound)
            parts.data.append(body)
        elif kind == b"IHDR" and not parts.header:
            _check(kind, sound)
            parts.header = bytes(body)
        elif kind in (b"PLTE", b"tRNS"):
            _check(kind, sound)
            if parts.data or (parts.palette if kind == b"PLTE" else parts.transparency):
                raise ValueError(f"its chunk {kind.decode()} is out of place")
            if kind == b"PLTE":
                parts.palette = bytes(body)
            else:
                parts.transparency = bytes(body)
        elif kind == b"CgBI":
            raise UnreadableKind("a PNG optimised for Apple's devices (chunk CgBI)", "send the PNG it was made from")
        elif not kind[0] & 0x20:
            raise ValueError(f"its chunk {kind.decode()} is unknown and critical, or out of place")
        elif sound:
            _read_metadata(kind, body, parts.metadata)
    return parts


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield each chunk's name, its body and whether its checksum is right, as far as chunks follow one another.

    The last chunk of image data may be cut off: whether all rows are there is for the decoder to find out.
    """
    view = memoryview(data)
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body, end = view[at + 8 : at + 8 + length], at + 12 + length
        if kind == b"IEND" or not _NAME(kind):
            return
        if end > len(data):
            if kind == b"IDAT":
                yield kind, body, True
            return
        check = int.from_bytes(view[end - 4 : end], "big")
        yield kind, body, kind not in _CHECKED or zlib.crc32(body, zlib.crc32(kind)) == check
        at = end


def _check(kind: bytes, sound: bool) -> None:
    if not sound:
        raise ValueError(f"its chunk {kind.decode()} is damaged: its checksum is wrong")


def _read_metadata(kind: bytes, body: memoryview, metadata: dict[str | tuple[int, int], Any]) -> None:
    """Keep what may hold the orientation, under Pillow's names."""
    if len(body) > _METADATA_BYTES:
        return
    if kind == b"eXIf":
        metadata[EXIF] = b"Exif\0\0" + bytes(body)
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        keyword, _, text = bytes(body).partition(b"\0")
        if keyword == b"Raw profile type exif" and kind != b"iTXt":
            plain = text if kind == b"tEXt" else _inflate(text[1:])
            metadata["Raw profile type exif"] = plain.decode("latin-1")
        elif keyword == b"XML:com.adobe.xmp" and kind == b"iTXt":
            compressed = text[:1] == b"\1"
            text = text[2:].split(b"\0", 2)[-1]
            metadata[XMP] = (_inflate(text) if compressed else text).decode("latin-1")


def _inflate(text: bytes) -> bytes:
    """Return at most _METADATA_BYTES of it; nothing if it is damaged."""
    try:
        return zlib.decompressobj().decompress(text, _METADATA_BYTES)
    except zlib.error:
        return b""


def _header(body: bytes) -> _PngHeader:
    if len(body) != 13:
        raise ValueError("it has no complete header (chunk IHDR)")
    width, height, bits, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", body)
    if (colour, bits) not in _LAYOUTS:
        raise ValueError(f"its header declares colour type {colour} with {bits} bits, which PNG does not have")
    if compression or filters or interlace > 1 or not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise ValueError("its header has values that PNG does not have")
    return _PngHeader(width, height, bits, colour, interlace == 1)


def _read_transparency(header: _PngHeader, parts: _Parts) -> int | bytes | tuple[int, ...] | None:
    """Return what is transparent: the alphas of a palette, or the one sample or colour; None if nothing is.

    Only the bits that a sample has count: https://www.w3.org/TR/png-3/#11tRNS
    """
    entries, odd = divmod(len(parts.palette), 3)
    if header.colour == PALETTE and (odd or not 1 <= entries <= 256):
        raise ValueError(f"its palette has {len(parts.palette)} bytes: expected 3 for each of 1 to 256 colours")
    body = parts.transparency
    if not body or header.colour in (GREY_ALPHA, RGBA):
        return None
    if header.colour == PALETTE:
        if len(body) > entries:
            raise ValueError(f"it declares the transparency of {len(body)} colours: its palette has {entries}")
        return body
    count = _SAMPLES[header.colour]
    if len(body) != 2 * count:
        raise ValueError(f"its chunk tRNS has {len(body)} bytes: expected {2 * count}")
    levels = tuple(level & (1 << header.bits) - 1 for level in struct.unpack(f">{count}H", body))
    return levels[0] if header.colour == GREY else levels


def _decode(
    header: _PngHeader, palette: bytes, transparency: int | bytes | tuple[int, ...] | None, data: bytes
) -> Image:
    mode, layout = _LAYOUTS[header.colour, header.bits]
    image = _unfilter(header, mode, layout, data)
    if header.bits == 16:
        return _reduce_sixteen_bits(header, image, transparency, data)
    if header.colour == PALETTE:
        image.putpalette(palette)
        check_palette(image, len(palette) // 3)
    if transparency is not None:
        if header.colour == GREY and isinstance(transparency, int):
            transparency = int(to_eight_bits(np.array([transparency]), header.bits)[0])
            image = image.convert("L")
        image.info["transparency"] = transparency
    return image


def _reduce_sixteen_bits(header: _PngHeader, high: Image, transparency: Any, data: bytes) -> Image:
    """Return an image of 16 bits in 8, with alpha if a colour is transparent."""
    from PIL import Image as Pillow

    mode = {GREY: "L", RGB: "RGB", GREY_ALPHA: "LA", RGBA: "RGBA"}[header.colour]
    if transparency is not None:
        mode = {"L": "LA", "RGB": "RGBA"}[mode]
    low = None
    if header.colour in (RGB, RGBA):
        # Pillow gives one byte of each sample: the second time the other one.
        low = _unfilter(header, high.mode, f"{high.mode};16L", data)
    image = Pillow.new(mode, high.size)
    for top, rows in bands(high):
        if low is not None:
            seconds = np.asarray(low.crop((0, top, low.width, top + len(rows))))
            samples = rows.astype(np.uint16) << 8 | seconds
        elif header.colour == GREY_ALPHA:
            samples = rows.view(">u2").astype(np.uint16)
        else:
            samples = rows.astype(np.uint16)[:, :, None]
        levels = to_eight_bits(samples, 16)
        if transparency is not None:
            opaque = (samples != np.array(transparency, np.uint16)).any(axis=2)
            levels = np.dstack([levels, np.where(opaque, 255, 0).astype(np.uint8)])
        image.paste(Pillow.fromarray(levels.squeeze(axis=2) if levels.shape[2] == 1 else levels), (0, top))
    return image


def _unfilter(header: _PngHeader, mode: str, layout: str, data: bytes) -> Image:
    """Return the image data in a mode of Pillow's.

    Raises:
        ValueError: The data is damaged, or ends before the last row.
    """
    from PIL import Image as Pillow

    # Pillow takes data that ends properly after any row, and leaves the rest as it is.
    image = Pillow.new(mode, (header.width, header.height), _UNLIKELY[mode])
    image.frombytes(data, "zip", (layout, int(header.interlaced)))
    untouched = header.interlaced or image.getpixel((0, header.height - 1)) == _UNLIKELY[mode]
    if untouched and not _is_complete(header, data):
        raise ValueError("its image data ends before its last row")
    return image


def _is_complete(header: _PngHeader, data: bytes) -> bool:
    """Return whether the image data inflates to all rows, each with its filter's byte."""
    width, height = header.width, header.height
    passes = _PASSES if header.interlaced else ((0, 0, 1, 1),)
    missing = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + -(-columns * header.bits * _SAMPLES[header.colour] // 8))
    inflater = zlib.decompressobj()
    for at in range(0, len(data), _INFLATED_AT_ONCE):
        missing -= len(inflater.decompress(data[at : at + _INFLATED_AT_ONCE]))
        if missing <= 0:
            return True
    return False
