"""Image files made byte by byte, by the formats' specifications: no image library has a part in them.

samples --> png, tiff, jpeg, gif, bmp --> bytes of a file that holds these very samples
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: TIFF's tags, by the names that the specification gives them.
TAGS = {
    "NewSubfileType": 254,
    "ImageWidth": 256,
    "ImageLength": 257,
    "BitsPerSample": 258,
    "Compression": 259,
    "PhotometricInterpretation": 262,
    "FillOrder": 266,
    "StripOffsets": 273,
    "Orientation": 274,
    "SamplesPerPixel": 277,
    "RowsPerStrip": 278,
    "StripByteCounts": 279,
    "PlanarConfiguration": 284,
    "Predictor": 317,
    "ColorMap": 320,
    "TileWidth": 322,
    "TileLength": 323,
    "TileOffsets": 324,
    "TileByteCounts": 325,
    "InkSet": 332,
    "DotRange": 336,
    "ExtraSamples": 338,
    "SampleFormat": 339,
    "SMinSampleValue": 340,
    "SMaxSampleValue": 341,
    "YCbCrSubSampling": 530,
    "DNGVersion": 50706,
}
#: A tag's value type -> (TIFF's number of it, struct's letter).
TYPES = {
    "byte": (1, "B"),
    "short": (3, "H"),
    "long": (4, "I"),
    "sshort": (8, "h"),
    "float": (11, "f"),
    "double": (12, "d"),
}
FLAT_QUANTISER = 8
#: Of bytes: II or MM.
Order = Literal["<", ">"]


def packed(samples: NDArray[Any], bits: int, order: Order = ">") -> bytes:
    """Rows of samples [H, …] as bytes, each row padded to a whole byte, the first sample in the highest bits.

    Samples of whole words of 16 bits and more have the byte order `order`; float samples keep their type.
    """
    rows = samples.reshape(len(samples), -1)
    if rows.dtype.kind == "f":
        return rows.astype(rows.dtype.newbyteorder(order)).tobytes()
    if bits in (16, 32, 64):
        return rows.astype(np.int64).astype(f"{order}u{bits // 8}").tobytes()
    if bits == 24:
        words = (rows.astype(np.int64) & 0xFFFFFF).astype(f"{order}u4").view(np.uint8).reshape(*rows.shape, 4)
        return (words[..., 1:] if order == ">" else words[..., :3]).tobytes()
    places = np.arange(bits - 1, -1, -1)
    digits = (rows[..., None].astype(np.int64) >> places) & 1
    return np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def chunk(kind: bytes, body: bytes, *, sound: bool = True) -> bytes:
    """A PNG chunk; one that is not `sound` has a wrong checksum."""
    check = zlib.crc32(kind + body) ^ (not sound)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(
    samples: ArrayLike,
    bits: int,
    colour: int,
    *,
    palette: bytes | None = None,
    trns: bytes | None = None,
    before: bytes = b"",
    after: bytes = b"",
    end: bytes = chunk(b"IEND", b""),
    interlaced: bool = False,
) -> bytes:
    """A PNG of samples [H, W] or [H, W, C], unfiltered.

    Args:
        samples: each 0 to 2 ** bits - 1.
        bits: of a sample.
        colour: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
        palette: red, green and blue of each entry.
        trns: the tRNS chunk's body.
        before: chunks between the header and the rest.
        after: chunks behind the image data.
        end: the last chunk.
        interlaced: by Adam7.
    """
    values = np.asarray(samples)
    passes = [values]
    if interlaced:
        grid = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        passes = [values[down::rows, across::columns] for across, down, columns, rows in grid]
    raw = b"".join(b"\0" + packed(row[None], bits) for one in passes if one.size for row in one)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + (chunk(b"PLTE", palette) if palette is not None else b"")
        + (chunk(b"tRNS", trns) if trns is not None else b"")
        + chunk(b"IDAT", zlib.compress(raw))
        + after
        + end
    )


def packbits(data: bytes) -> bytes:
    """Apple's PackBits, literal runs only."""
    return b"".join(bytes([len(data[at : at + 128]) - 1]) + data[at : at + 128] for at in range(0, len(data), 128))


def lzw(data: bytes) -> bytes:
    """TIFF's LZW, of clear codes and literals only: every code has nine bits."""
    codes: list[int] = []
    for at, byte in enumerate(data):
        codes += [256, byte] if at % 200 == 0 else [byte]
    codes.append(257)
    digits = (np.array(codes)[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(digits.astype(np.uint8).ravel()).tobytes()


#: TIFF's number of a compression -> what compresses.
COMPRESSIONS: dict[int, Callable[[bytes], bytes]] = {
    1: bytes,
    5: lzw,
    8: zlib.compress,
    32946: zlib.compress,
    32773: packbits,
}


def predicted(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Samples [H, W, C] as differences to the left neighbour, modulo 2 ** bits."""
    before = np.concatenate([np.zeros_like(samples[:, :1]), samples[:, :-1]], axis=1)
    return (samples.astype(np.int64) - before.astype(np.int64)) & ((1 << bits) - 1)


def tiff(
    samples: ArrayLike,
    bits: int,
    photometric: int | None = 1,
    *,
    order: Order = "<",
    compression: int = 1,
    predictor: int = 1,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    planar: bool = False,
    fill_order: int = 1,
    big: bool = False,
    tags: dict[str, Any] | None = None,
) -> bytes:
    """A TIFF of samples [H, W] or [H, W, C].

    Args:
        samples: integers, or floats of the size that `bits` says.
        bits: of a sample.
        photometric: 0 WhiteIsZero, 1 BlackIsZero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, 8 CIELab; None: untold.
        order: "<" (II) or ">" (MM).
        compression: a key of COMPRESSIONS.
        predictor: 2 stores differences.
        rows: of a strip; all of them by default.
        tile: width and height of a tile, where it is tiled.
        planar: each component in a plane of its own.
        fill_order: 2 has the bits of each byte reversed.
        big: BigTIFF, with offsets of 64 bits.
        tags: more tags; a value is a number (SHORT), a list of them, or (type, list). None removes the tag.
    """
    values = np.asarray(samples)
    values = values[:, :, None] if values.ndim == 2 else values
    height, width, channels = values.shape
    planes = [values[:, :, [band]] for band in range(channels)] if planar else [values]
    pieces = []
    for plane in planes:
        for block in _blocks(plane, rows or height, tile):
            stored = predicted(block, bits) if predictor == 2 else block
            data = COMPRESSIONS[compression](packed(stored, bits, order))
            pieces.append(data if fill_order == 1 else _reversed_bits(data))
    found: dict[str, Any] = {
        "ImageWidth": width,
        "ImageLength": height,
        "BitsPerSample": [bits] * channels,
        "Compression": compression,
        "PhotometricInterpretation": photometric,
        "SamplesPerPixel": channels,
        "SampleFormat": [3 if values.dtype.kind == "f" else 1] * channels,
        "PlanarConfiguration": 2 if planar else 1,
        "FillOrder": fill_order if fill_order != 1 else None,
        "Predictor": predictor if predictor != 1 else None,
    }
    start = 16 if big else 8
    offsets = [start + sum(map(len, pieces[:at])) for at in range(len(pieces))]
    places, counts = ("TileOffsets", "TileByteCounts") if tile else ("StripOffsets", "StripByteCounts")
    found |= {places: ("long", offsets), counts: ("long", [len(piece) for piece in pieces])}
    found |= {"TileWidth": tile[0], "TileLength": tile[1]} if tile else {"RowsPerStrip": ("long", [rows or height])}
    return _tiff_file(b"".join(pieces), found | (tags or {}), order, big)


def _blocks(plane: NDArray[Any], rows: int, tile: tuple[int, int] | None) -> list[NDArray[Any]]:
    if tile is None:
        return [plane[top : top + rows] for top in range(0, len(plane), rows)]
    width, height = tile
    down, across = -len(plane) % height, -plane.shape[1] % width
    whole = np.pad(plane, ((0, down), (0, across), (0, 0)))
    return [
        whole[top : top + height, left : left + width]
        for top in range(0, len(whole), height)
        for left in range(0, whole.shape[1], width)
    ]


def _reversed_bits(data: bytes) -> bytes:
    return np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 8)[:, ::-1], axis=1).tobytes()


def _tiff_file(data: bytes, tags: dict[str, Any], order: Order, big: bool) -> bytes:
    """The header, the data, then the directory, and behind it what is too long for an entry."""
    entries = {}
    for name, given in tags.items():
        if given is not None:
            kind, values = given if isinstance(given, tuple) else ("short", given)
            number, letter = TYPES[kind]
            values = values if isinstance(values, list) else [values]
            entries[TAGS[name]] = (number, len(values), struct.pack(f"{order}{len(values)}{letter}", *values))
    mark, at, count, entry, room, offset = (
        (43, 16 + len(data), "Q", "HHQ", 8, "Q") if big else (42, 8 + len(data), "H", "HHI", 4, "I")
    )
    at += len(data) % 2
    tail_at = at + struct.calcsize(f"<{count}") + len(entries) * (struct.calcsize(f"<{entry}") + room) + room
    directory, tail = struct.pack(order + count, len(entries)), b""
    for tag in sorted(entries):
        number, length, body = entries[tag]
        directory += struct.pack(order + entry, tag, number, length)
        if len(body) <= room:
            directory += body.ljust(room, b"\0")
        else:
            directory += struct.pack(order + offset, tail_at + len(tail))
            tail += body + b"\0" * (len(body) % 2)
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", mark)
    header += struct.pack(f"{order}HHQ", 8, 0, at) if big else struct.pack(f"{order}I", at)
    return header + data + b"\0" * (len(data) % 2) + directory + bytes(room) + tail


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG marker segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(
    components: Sequence[int],
    *,
    width: int = 8,
    height: int = 8,
    adobe: int | None = None,
    jfif: bool = False,
    names: Sequence[int] | None = None,
    before: bytes = b"",
    precision: int = 8,
    frame: int = 0xC0,
    end: bytes = b"\xff\xd9",
) -> bytes:
    """A baseline JPEG of one colour, by its components as they lie in the file, each 0 to 255.

    Every block is its DC coefficient alone, stored with a quantiser of 8: exactly the component's value.

    Args:
        components: one value each, before any colour transform is undone.
        width: in pixels.
        height: in pixels.
        adobe: the transform that Adobe's marker tells: 0 none, 1 YCbCr, 2 YCCK; None: no marker.
        jfif: whether JFIF's marker is there.
        names: the components' identifiers; 1, 2, … by default.
        before: segments before the tables.
        precision: bits of a sample, as the frame's header tells.
        frame: the frame header's marker; 0xC0 is baseline.
        end: the end marker.
    """
    names = names or range(1, len(components) + 1)
    head = b"\xff\xd8"
    head += segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") if jfif else b""
    head += segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([adobe])) if adobe is not None else b""
    head += before + segment(0xDB, b"\0" + bytes([FLAT_QUANTISER] * 64))
    # DC: categories 0 to 8, each a code of four bits. AC: the end of a block alone, a code of one bit.
    head += segment(0xC4, b"\0" + bytes([0, 0, 0, 9] + [0] * 12) + bytes(range(9)))
    head += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0")
    frame_header = struct.pack(">BHHB", precision, height, width, len(components))
    head += segment(frame, frame_header + b"".join(bytes([name, 0x11, 0]) for name in names))
    scan = bytes([len(components)]) + b"".join(bytes([name, 0]) for name in names) + b"\0\x3f\0"
    return head + segment(0xDA, scan) + _flat_scan(components, -(-width // 8) * -(-height // 8)) + end


def _flat_scan(components: Sequence[int], units: int) -> bytes:
    digits, before = "", [0] * len(components)
    for _ in range(units):
        for band, value in enumerate(components):
            difference, before[band] = value - 128 - before[band], value - 128
            size = abs(difference).bit_length()
            bits = difference if difference > 0 else difference + (1 << size) - 1
            digits += f"{size:04b}" + (f"{bits:0{size}b}" if size else "") + "0"
    digits += "1" * (-len(digits) % 8)
    data = bytes(int(digits[at : at + 8], 2) for at in range(0, len(digits), 8))
    return data.replace(b"\xff", b"\xff\0")


def gif(
    indices: ArrayLike,
    palette: bytes | None,
    *,
    transparent: int | None = None,
    canvas: tuple[int, int] | None = None,
    place: tuple[int, int] = (0, 0),
    end: bytes = b"\x3b",
) -> bytes:
    """A GIF of palette indices [H, W], each below 128, on a canvas (width, height); its LZW codes have eight bits."""
    values = np.asarray(indices)
    height, width = values.shape
    screen = canvas or (width, height)
    size = 0 if palette is None else max(1, (len(palette) // 3 - 1).bit_length())
    table = b"" if palette is None else palette.ljust(3 << size, b"\0")
    flags = 0 if palette is None else 0x80 | size - 1
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, flags, 0, 0) + table
    if transparent is not None:
        head += b"!\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    codes: list[int] = []
    for at, index in enumerate(values.ravel().tolist()):
        codes += [128, index] if at % 100 == 0 else [index]
    codes.append(129)
    digits = ((np.array(codes)[:, None] >> np.arange(8)) & 1).astype(np.uint8).ravel()
    data = np.packbits(digits, bitorder="little").tobytes()
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    return head + b"," + struct.pack("<HHHHB", *place, width, height, 0) + b"\x07" + blocks + b"\0" + end


def bmp(samples: ArrayLike, bits: int, palette: bytes | None = None, *, colours: int = 0, masks: bytes = b"") -> bytes:
    """A BMP of samples [H, W] or [H, W, C]; `palette` has blue, green, red and zero of each entry."""
    values = np.asarray(samples)[::-1]
    packed_rows = [packed(row[None], bits if values.ndim == 2 else 8, "<") for row in values]
    rows = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in packed_rows)
    table = masks + (palette or b"")
    header = struct.pack(
        "<IiiHHIIiiII", 40, values.shape[1], values.shape[0], 1, bits, 3 if masks else 0, len(rows), 0, 0, colours, 0
    )
    return b"BM" + struct.pack("<IHHI", 54 + len(table) + len(rows), 0, 0, 54 + len(table)) + header + table + rows
