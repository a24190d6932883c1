"""Where the samples of a TIFF are, and how they are read: strips or tiles, together or in planes, packed, compressed.

    Directory --> Layout --> bands of rows: unsigned samples [rows, width, samples a pixel]

libtiff decompresses, by way of Pillow: it is given small TIFFs that describe the strips as rows of grey bytes. So every
size of sample comes out as it was stored, and none of it depends on what Pillow knows to name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thriftserve.models.image_formats.opened import UnreadableKind
from thriftserve.models.image_formats.samples import Samples, bands, unpack
from thriftserve.models.image_formats.tiff_directory import TYPES, Directory, Tag, Values

if TYPE_CHECKING:
    from PIL.Image import Image

#: TIFF's number of the type of unsigned numbers of 32 bits.
LONG = 4
#: From this version on, Pillow's decoder gets no compression, which it never used.
_WITHOUT_COMPRESSION = 13


def write_tiff(
    tags: dict[int, tuple[int, Values]], pieces: Sequence[bytes | memoryview], tiled: bool
) -> tuple[bytes, int]:
    """Return a TIFF of these tags and strips or tiles, little-endian, and the place of its directory."""
    lengths = np.array([len(piece) for piece in pieces], np.uint32)
    places = (8 + np.cumsum(lengths) - lengths).astype(np.uint32)
    offsets, counts = (Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS) if tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS)
    tags = tags | {offsets: (LONG, places), counts: (LONG, lengths)}
    data = b"".join(pieces)
    data += bytes(len(data) % 2)
    at = 8 + len(data)
    tail_at = at + 2 + 12 * len(tags) + 4
    directory, tail = struct.pack("<H", len(tags)), b""
    for tag in sorted(tags):
        kind, values = tags[tag]
        body = values.astype(values.dtype.newbyteorder("<")).tobytes()
        directory += struct.pack("<HHI", tag, kind, len(values) // TYPES[kind][1])
        if len(body) <= 4:
            directory += body.ljust(4, b"\0")
        else:
            directory += struct.pack("<I", tail_at + len(tail))
            tail += body + bytes(len(body) % 2)
    return b"II*\0" + struct.pack("<I", at) + data + directory + bytes(4) + tail, at


def decode_tiff(mode: str, size: tuple[int, int], data: bytes, at: int, stored: str) -> Image:
    """Decode a TIFF without checking its size first, as Pillow's own reader does.

    Args:
        mode: Pillow's mode of the image.
        size: width and height, in pixels.
        data: the file.
        at: the place of its directory.
        stored: Pillow's name for how the file stores the samples.

    Raises:
        ValueError: The data is damaged, or this Pillow has no libtiff.
    """
    import PIL
    from PIL import Image, features

    if not features.check_codec("libtiff"):
        raise ValueError("this server's Pillow has no libtiff")
    arguments: tuple[Any, ...] = (stored, False, at)
    if int(PIL.__version__.partition(".")[0]) < _WITHOUT_COMPRESSION:
        arguments = (stored, "", False, at)
    return Image.frombytes(mode, size, data, "libtiff", arguments)


NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD = 1, 5, 8, 32946, 32773, 34925, 50000
#: Compressions of plain bytes, whatever these mean, and those of them that a predictor goes with.
PLAIN = frozenset({NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD})
_PREDICTED = PLAIN - {NONE, PACKBITS}
_HORIZONTAL = 2
#: More bytes than that a pixel are refused: four samples of 32 bits.
_PIXEL_BYTES = 16
#: A tile may be larger than its image, but no tile of a small image than this, in pixels.
_TILE_PIXELS = 1 << 22
#: About how much is decompressed at once; one strip or row of tiles at least.
_BAND_BYTES = 1 << 22


@dataclass(frozen=True)
class TiffLayout:
    """The place and packing of an image's samples; `offsets` and `counts` of its strips or tiles are in bytes."""

    width: int
    height: int
    bits: int
    #: Samples a pixel.
    samples: int
    order: str
    compression: int
    planar: bool
    fill_order: int
    predictor: int
    tiled: bool
    #: Width and height of a strip or tile.
    block: tuple[int, int]
    offsets: Sequence[int]
    counts: Sequence[int]
    #: Whether the bytes of a strip or tile follow from its size in pixels: of each sample, uncompressed, there is one.
    sized: bool

    @classmethod
    def of(cls, directory: Directory, file_bytes: int, *, subsampled: bool) -> TiffLayout:
        """Return the layout of a directory.

        Args:
            directory: the image's.
            file_bytes: size of the file.
            subsampled: whether several pixels may share a sample.

        Raises:
            UnreadableKind: its samples are of different sizes, or too many.
            ValueError: it contradicts itself or the file's size.
        """
        width, height = directory.number(Tag.IMAGE_WIDTH, 0), directory.number(Tag.IMAGE_LENGTH, 0)
        if min(width, height) < 1:
            raise ValueError("its directory declares no size")
        bits, samples = _read_sample_sizes(directory)
        tiled = Tag.STRIP_OFFSETS not in directory
        block = _read_tile(directory, width, height) if tiled else (width, _read_rows_per_strip(directory, height))
        compression = directory.number(Tag.COMPRESSION, NONE)
        layout = cls(
            width=width,
            height=height,
            bits=bits,
            samples=samples,
            order=directory.order,
            compression=compression,
            planar=directory.number(Tag.PLANAR_CONFIGURATION, 1) == 2 and samples > 1,
            fill_order=directory.number(Tag.FILL_ORDER, 1),
            predictor=directory.number(Tag.PREDICTOR, 1),
            tiled=tiled,
            block=block,
            offsets=_integers(directory, Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS),
            counts=_integers(directory, Tag.TILE_BYTE_COUNTS if tiled else Tag.STRIP_BYTE_COUNTS),
            sized=compression == NONE and not subsampled,
        )
        return layout._check(file_bytes)

    def bands(self, data: bytes) -> Iterator[tuple[int, Samples]]:
        """Yield the samples of some rows at a time, unsigned [rows, width, samples], with the number of the first row.

        Raises:
            UnreadableKind: there is a predictor that nothing here undoes.
            ValueError: the data is damaged.
        """
        predictor = self.predictor if self.compression in _PREDICTED else 1
        if predictor not in (1, _HORIZONTAL) or (predictor == _HORIZONTAL and self.bits not in (8, 16, 32)):
            raise UnreadableKind(f"a TIFF of {self.bits}-bit samples with predictor {predictor}", "save it without")
        rows = self.block[1]
        together = max(1, _BAND_BYTES // (rows * self._row_bytes * (self.samples if self.planar else 1)))
        down = -(-self.height // rows)
        for first in range(0, down, together):
            planes = [self._decompress(data, plane, first, min(first + together, down)) for plane in self._planes]
            for parts in zip(*planes, strict=True):
                stacked = [self._unpack(part, predictor == _HORIZONTAL) for _, part in parts]
                yield first * rows + parts[0][0], np.concatenate(stacked, axis=2) if self.planar else stacked[0]

    @property
    def _planes(self) -> range:
        return range(self.samples if self.planar else 1)

    @property
    def _together(self) -> int:
        """Samples of a pixel that are stored side by side."""
        return 1 if self.planar else self.samples

    @property
    def _across(self) -> int:
        return -(-self.width // self.block[0])

    @property
    def _row_bytes(self) -> int:
        return -(-self._across * self.block[0] * self._together * self.bits // 8)

    @property
    def blocks(self) -> int:
        """How many strips or tiles the image has, in all planes."""
        return self._across * -(-self.height // self.block[1]) * len(self._planes)

    def pieces(self, data: bytes, indices: range) -> list[memoryview]:
        """Return the bytes of some strips or tiles."""
        view = memoryview(data)
        counts = self._block_bytes(indices.stop) if self.sized else self.counts
        return [view[self.offsets[index] : self.offsets[index] + counts[index]] for index in indices]

    def _check(self, file_bytes: int) -> TiffLayout:
        number = self.blocks
        if len(self.offsets) < number or (not self.sized and len(self.counts) < number):
            raise ValueError(f"its directory declares fewer strips or tiles than the {number} that the image has")
        sizes = self._block_bytes(number) if self.sized else self.counts[:number]
        if any(at + size > file_bytes for at, size in zip(self.offsets, sizes, strict=False)):
            raise ValueError("it is cut off: its directory declares more data")
        if not self.sized and sum(sizes) > file_bytes:
            raise ValueError("its strips or tiles overlap")
        return self

    def _block_bytes(self, number: int) -> Sequence[int]:
        """The bytes of each strip or tile as it is without compression."""
        width, rows = self.block
        line = -(-width * self._together * self.bits // 8)
        if self.tiled:
            return [line * rows] * number
        down = -(-self.height // rows)
        last = self.height - (down - 1) * rows
        return ([line * rows] * (down - 1) + [line * last]) * len(self._planes)

    def _decompress(self, data: bytes, plane: int, first: int, end: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield rows of bytes of one plane's strips, or rows of tiles, from number `first` to before `end`."""
        per_plane = self._across * -(-self.height // self.block[1])
        indices = range(plane * per_plane + first * self._across, plane * per_plane + end * self._across)
        rows = min(end * self.block[1], self.height) - first * self.block[1]
        described = {
            Tag.IMAGE_WIDTH: self._row_bytes,
            Tag.IMAGE_LENGTH: rows,
            Tag.BITS_PER_SAMPLE: 8,
            Tag.COMPRESSION: self.compression,
            Tag.PHOTOMETRIC: 1,
            Tag.FILL_ORDER: self.fill_order,
        }
        if self.tiled:
            described |= {Tag.TILE_WIDTH: self._row_bytes // self._across, Tag.TILE_LENGTH: self.block[1]}
        else:
            described[Tag.ROWS_PER_STRIP] = self.block[1]
        tags: dict[int, tuple[int, Values]] = {
            tag: (LONG, np.array([value], np.uint32)) for tag, value in described.items()
        }
        small, at = write_tiff(tags, self.pieces(data, indices), self.tiled)
        return bands(decode_tiff("L", (self._row_bytes, rows), small, at, "L"))

    def _unpack(self, rows: NDArray[np.uint8], differences: bool) -> Samples:
        """Return rows of bytes as samples [rows, width, samples stored together]."""
        columns = self._across * self.block[0]
        samples = unpack(rows, columns * self._together, self.bits, self.order)
        if differences:
            apart = samples.reshape(len(rows), self._across, self.block[0], self._together)
            samples = np.cumsum(apart, axis=2, dtype=samples.dtype)
        return samples.reshape(len(rows), columns, self._together)[:, : self.width]


def _integers(directory: Directory, tag: Tag) -> list[int]:
    return [int(value) for value in directory.values(tag)]


def _read_sample_sizes(directory: Directory) -> tuple[int, int]:
    """Return the bits of a sample and the samples a pixel."""
    sizes = _integers(directory, Tag.BITS_PER_SAMPLE) or [1]
    samples = directory.number(Tag.SAMPLES_PER_PIXEL, len(sizes))
    sizes = sizes[:samples]
    bits = sizes[0] if sizes else 0
    if samples < 1 or len(sizes) not in (1, samples):
        raise ValueError(f"its directory declares {samples} samples a pixel and the sizes of {len(sizes)}")
    if len(set(sizes)) > 1:
        raise UnreadableKind(f"a TIFF with samples of {' and '.join(map(str, sizes))} bits")
    if not 1 <= bits <= 64 or bits * samples > 8 * _PIXEL_BYTES:
        raise UnreadableKind(f"a TIFF of {samples} sample(s) of {bits} bits a pixel", "save it with 8 or 16 bits")
    return bits, samples


def _read_rows_per_strip(directory: Directory, height: int) -> int:
    return max(1, min(directory.number(Tag.ROWS_PER_STRIP, height), height))


def _read_tile(directory: Directory, width: int, height: int) -> tuple[int, int]:
    tile = directory.number(Tag.TILE_WIDTH, 0), directory.number(Tag.TILE_LENGTH, 0)
    # Of the size that the specification asks for, its rows are whole bytes.
    if min(tile) < 1 or tile[0] % 8 or tile[0] * tile[1] > max(width * height, _TILE_PIXELS):
        raise ValueError(f"its directory declares tiles of {tile[0]}x{tile[1]}")
    return tile
