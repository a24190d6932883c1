"""JPEG files: what libjpeg would make up, or guess, is checked here before Pillow decodes them.

    bytes --> JpegHeader: frame, first scan, Adobe's marker --> OpenedImage --> 8 bits

libjpeg fills what is missing with grey and says so only in a warning that Pillow drops. It does so at
the end marker; if the data just stops it asks for more instead. So a baseline file is decoded without its end
marker: complete data needs none, and incomplete data shows.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from thriftserve.models.image_formats.opened import EXIF, XMP, Draft, OpenedImage, UnreadableKind, read_orientation

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

SIGNATURE = b"\xff\xd8"
_END = b"\xff\xd9"
_START_OF_SCAN, _RESTART_INTERVAL, _APPLICATION_0, _APPLICATION_1, _ADOBE = 0xDA, 0xDD, 0xE0, 0xE1, 0xEE
#: Markers that a length and a body follow: all but fill bytes, stuffed ones and those without a body.
_SEGMENTS = frozenset(range(0x02, 0xFF)) - set(range(0xD0, 0xDA))
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Frames of one pass over the image, Huffman-coded: baseline and extended sequential.
_SEQUENTIAL = (0xC0, 0xC1)
_UNSUPPORTED = {0xC3: "a lossless JPEG"} | dict.fromkeys(
    (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF), "a hierarchical or lossless JPEG"
)
#: libjpeg reads up to 8 bytes ahead of what it decodes.
_AHEAD = 8
#: What is put behind data without an end marker. Missing bits come out differently with each.
_FILLINGS = (b"\x00" * _AHEAD, b"\xaa" * _AHEAD, b"\x55" * _AHEAD)
#: A marker in entropy-coded data: no stuffed zero, no restart, no fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass
class JpegHeader:
    """The segments up to the first scan."""

    frame: int = 0
    precision: int = 0
    #: The components' identifiers, in the frame's order and in the first scan's.
    components: bytes = b""
    scan: bytes = b""
    scan_at: int = 0
    restarts: bool = False
    adobe: bool = False
    #: Marker, start and end of each segment.
    segments: list[tuple[int, int, int]] = field(default_factory=list)

    @classmethod
    def read(cls, data: bytes) -> JpegHeader:
        """Read the segments up to the first scan.

        Raises:
            ValueError: they end before it, or there is no frame.
        """
        header, at = cls(), len(SIGNATURE)
        while not header.scan:
            marker, start, at = _next_segment(data, at)
            header.segments.append((marker, start, at))
            if marker in _FRAMES and not header.frame:
                header.frame, header.precision, count = marker, data[start + 4], data[start + 9]
                header.components = data[start + 10 : start + 10 + 3 * count : 3]
            elif marker == _START_OF_SCAN:
                header.scan, header.scan_at = data[start + 5 : start + 5 + 2 * data[start + 4] : 2], start
            elif marker == _RESTART_INTERVAL:
                header.restarts = any(data[start + 4 : at])
            elif marker == _ADOBE:
                header.adobe = header.adobe or _is_adobe(data[start + 4 : at])
        if not header.frame:
            raise ValueError("it has no frame header")
        return header

    @property
    def one_pass(self) -> bool:
        """Whether one Huffman-coded scan has the entire image."""
        return self.frame in _SEQUENTIAL and len(self.scan) == len(self.components)


def open_jpeg(data: bytes) -> OpenedImage:
    """Read the header of a JPEG.

    Raises:
        UnreadableKind: Pillow has no decoder for it, or its colours are ambiguous.
        ValueError: The header is damaged.
    """
    header = JpegHeader.read(data)
    _check_kind(header)
    ended = data.endswith(_END)
    image = _open(data[: -len(_END)] + _FILLINGS[0] if ended and header.one_pass else data, header)

    def load(draft: Draft | None) -> ImageFile:
        try:
            return _decode(image, draft)
        except OSError:
            if ended or not (header.one_pass or _is_complete(data, header)):
                raise
        return _decode_without_end(data, header, draft)

    return OpenedImage("JPEG", *image.size, read_orientation(image), load)


def _next_segment(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the next segment from `at` on, past fill bytes and junk: its marker, start and end."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise ValueError("it ends before its image data")
        marker = data[at + 1]
        if marker in _SEGMENTS:
            break
        at += 1 if marker == 0xFF else 2
    end = at + 2 + (data[at + 2] << 8 | data[at + 3])
    shortest = 10 if marker in _FRAMES else 5 if marker == _START_OF_SCAN else 4
    if not at + shortest <= end <= len(data):
        raise ValueError(f"its segment FF{marker:02X} at byte {at} is damaged or cut off")
    return marker, at, end


def _is_adobe(body: bytes) -> bool:
    """Return whether libjpeg takes this segment as Adobe's."""
    return body.startswith(b"Adobe") and len(body) >= 12


def _check_kind(header: JpegHeader) -> None:
    if header.frame in _UNSUPPORTED:
        raise UnreadableKind(_UNSUPPORTED[header.frame], "convert it to a baseline JPEG or to PNG")
    if header.precision != 8:
        raise UnreadableKind(f"a JPEG of {header.precision}-bit samples", "convert it to a baseline JPEG or to PNG")
    if len(header.components) not in (1, 3, 4):
        raise UnreadableKind(f"a JPEG of {len(header.components)} colour components", "convert it to RGB")
    if len(header.components) == 4 and not header.adobe:
        raise UnreadableKind(
            "a CMYK JPEG without Adobe's marker, which says whether 0 is no ink or full ink,", "convert it to RGB"
        )


def _open(data: bytes, header: JpegHeader) -> ImageFile:
    """Return the image opened by Pillow; without its metadata if that is damaged."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data), formats=("JPEG",))
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception:  # whatever a parser makes of damaged metadata
        image = Image.open(io.BytesIO(_strip_metadata(data, header)), formats=("JPEG",))
    for marker, start, end in header.segments:
        body = data[start + 4 : end] if marker == _APPLICATION_1 else b""
        if body.startswith(_EXIF):
            image.info[EXIF] = image.info.get(EXIF, _EXIF) + body[len(_EXIF) :]
        elif body.startswith(_XMP):
            image.info[XMP] = body[len(_XMP) :].decode("latin-1")
    return image


def _strip_metadata(data: bytes, header: JpegHeader) -> bytes:
    """Return the file without application segments and comments, but for those that decide about colours."""
    parts = [SIGNATURE]
    for marker, start, end in header.segments:
        body = data[start + 4 : end]
        decides = (marker == _APPLICATION_0 and body.startswith(b"JFIF\0") and len(body) >= 14) or _is_adobe(body)
        if decides or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(data[start:end])
    return b"".join((*parts, data[header.segments[-1][2] :]))


def _decode(image: ImageFile, draft: Draft | None) -> ImageFile:
    if draft is not None:
        image.draft(*draft)
    image.load()
    return image


def _decode_without_end(data: bytes, header: JpegHeader, draft: Draft | None) -> ImageFile:
    """Decode a file that may lack its end marker alone.

    Raises:
        OSError: It lacks more: what follows it changes its pixels.
    """
    end = b"" if header.one_pass else _END
    image, *others = (_decode(_open(data + filling + end, header), draft) for filling in _FILLINGS)
    pixels = image.tobytes()
    if any(other.tobytes() != pixels for other in others):
        raise OSError("it ends in the middle of its image data")
    return image


def _is_complete(data: bytes, header: JpegHeader) -> bool:
    """Return whether the scans of a JPEG of several bring every coefficient down to its last bit.

    One with restarts never counts as complete: whatever follows data that stops before a restart, nothing shows.
    """
    missing = {(component, place) for component in header.components for place in range(64)}
    restarts, at = header.restarts, header.scan_at
    while not restarts:
        try:
            marker, start, at = _next_segment(data, at)
        except ValueError:
            break
        body = data[start + 4 : at]
        restarts = marker == _RESTART_INTERVAL and any(body)
        if marker == _START_OF_SCAN and len(body) >= 4 + 2 * body[0]:
            first, last, precision = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            if not precision & 0x0F:
                missing -= set(product(body[1 : 1 + 2 * body[0] : 2], range(first, last + 1)))
            marker_match = _MARKER.search(data, at)
            at = marker_match.start() if marker_match else len(data)
    return not missing
