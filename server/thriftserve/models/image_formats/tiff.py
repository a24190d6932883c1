"""TIFF files: what their samples mean is read from their tags, not guessed from a decoder's mode.

    bytes --> Directory --> Kind, Layout --> OpenedImage --> samples --> 8 bits

BitsPerSample and SampleFormat give the range, PhotometricInterpretation the polarity and the colours, ExtraSamples the
alpha. A file that leaves one of these open, or whose answer decoders disagree about, is refused by name.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thriftserve.models.image_formats import tiff_layout
from thriftserve.models.image_formats.opened import UPRIGHT, XMP, Draft, OpenedImage, UnreadableKind, find_orientation
from thriftserve.models.image_formats.samples import Levels, Samples, spread, to_eight_bits, unmultiply
from thriftserve.models.image_formats.tiff_directory import Directory, Tag, Values
from thriftserve.models.image_formats.tiff_layout import PLAIN, TiffLayout

if TYPE_CHECKING:
    from PIL.Image import Image

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
#: PhotometricInterpretation -> samples of a colour.
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3}
_OTHER_PHOTOMETRICS = {
    4: "a TIFF that is a transparency mask",
    9: "a TIFF of ICC L*a*b* colours",
    10: "a TIFF of ITU L*a*b* colours",
    32803: "a camera's raw file (TIFF with a colour filter array)",
    32844: "a TIFF of LogL brightness",
    32845: "a TIFF of LogLuv colours",
    34892: "a camera's raw file (TIFF with linear raw data)",
}
_OLD_JPEG, _JPEG, _THUNDERSCAN, _WEBP = 6, 7, 32809, 50001
#: Compressions that only fit samples of one size: libtiff decodes these as a whole.
_CODED_BITS = {2: 1, 3: 1, 4: 1, _OLD_JPEG: 8, _JPEG: 8, _THUNDERSCAN: 4, _WEBP: 8}
UNSIGNED, SIGNED, FLOATING = 1, 2, 3
_FORMATS = {UNSIGNED: "unsigned", SIGNED: "signed", FLOATING: "floating-point"}
_WORDS = {SIGNED: (8, 16, 32), FLOATING: (16, 32, 64)}
_ASSOCIATED, _UNASSOCIATED = 1, 2
#: What CorelDRAW 10 writes for unassociated alpha.
_COREL_ALPHA = 999
_REDUCED_RESOLUTION = 1
#: After the header, if a camera of Canon's wrote the file.
_CANON_RAW = b"CR"
_COLOUR_LEVELS = 1 << 16
#: No declared range goes beyond numbers of 32 bits.
_LARGEST = float(np.finfo(np.float32).max)
_EIGHT_BITS = "save it with 8 or 16 unsigned bits"


@dataclass(frozen=True)
class TiffKind:
    """What the samples mean."""

    photometric: int
    #: Samples of a colour; the rest are extra.
    colours: int
    format: int
    #: Which sample is alpha, and whether colours were multiplied with it.
    alpha: int | None
    associated: bool
    #: What signed and floating-point samples range over.
    low: float = 0.0
    high: float = 0.0


def open_tiff(data: bytes) -> OpenedImage:
    """Read the first directory of a TIFF.

    Raises:
        UnreadableKind: The kind has no one right reading.
        ValueError: The directory is damaged, or declares more data than the file has.
    """
    directory = Directory.read(data)
    preview = directory.number(Tag.NEW_SUBFILE_TYPE, 0) & _REDUCED_RESOLUTION
    if preview or Tag.DNG_VERSION in directory or data[8:10] == _CANON_RAW:
        raise UnreadableKind("a camera's raw file, or another TIFF that begins with a preview,", "convert it to JPEG")
    photometric = _read_photometric(directory)
    layout = TiffLayout.of(directory, len(data), subsampled=photometric == YCBCR)
    kind = _read_kind(directory, photometric, layout)
    xmp = directory.tags.get(Tag.XMP)
    orientation = (
        directory.number(Tag.ORIENTATION, UPRIGHT)
        if Tag.ORIENTATION in directory or xmp is None
        else find_orientation({XMP: xmp[1].tobytes().decode("latin-1")})
    )

    def load(_draft: Draft | None) -> Image:
        if layout.compression in PLAIN and not _libtiff_mode(layout, kind):
            return _decode(data, directory, layout, kind)
        return _decode_by_libtiff(data, directory, layout, kind)

    return OpenedImage("TIFF", layout.width, layout.height, orientation, load)


def _read_photometric(directory: Directory) -> int:
    if Tag.PHOTOMETRIC not in directory:
        raise UnreadableKind("a TIFF that doesn't say what its samples mean (no PhotometricInterpretation)")
    photometric = directory.number(Tag.PHOTOMETRIC, 0)
    if photometric not in _COLOURS:
        other = f"a TIFF with PhotometricInterpretation {photometric}"
        raise UnreadableKind(_OTHER_PHOTOMETRICS.get(photometric, other))
    # The one sample of a YCbCr image without colours is its grey.
    grey = photometric == YCBCR and directory.number(Tag.SAMPLES_PER_PIXEL, 1) == 1
    return BLACK_IS_ZERO if grey else photometric


def _read_kind(directory: Directory, photometric: int, layout: TiffLayout) -> TiffKind:
    colours = _COLOURS[photometric]
    extra = [int(value) for value in directory.values(Tag.EXTRA_SAMPLES)]
    if layout.samples < colours + len(extra):
        raise ValueError(f"its directory declares {layout.samples} samples a pixel: its colours alone take {colours}")
    if layout.samples > colours + len(extra):
        more = layout.samples - colours - len(extra)
        raise UnreadableKind(f"a TIFF that doesn't say what {more} of its samples are (ExtraSamples)")
    known = [_UNASSOCIATED if value == _COREL_ALPHA else value for value in extra]
    alpha = next((at for at, value in enumerate(known) if value in (_ASSOCIATED, _UNASSOCIATED)), None)
    kind = TiffKind(
        photometric=photometric,
        colours=colours,
        format=_read_format(directory),
        alpha=None if alpha is None else colours + alpha,
        associated=alpha is not None and known[alpha] == _ASSOCIATED,
    )
    _check_kind(directory, layout, kind)
    if kind.format == UNSIGNED:
        return kind
    low, high = _read_range(directory, layout, kind)
    return TiffKind(photometric, colours, kind.format, kind.alpha, kind.associated, low, high)


def _read_format(directory: Directory) -> int:
    formats = {int(value) for value in directory.values(Tag.SAMPLE_FORMAT, (UNSIGNED,))}
    if len(formats) > 1 or not formats <= _FORMATS.keys():
        raise UnreadableKind(f"a TIFF with SampleFormat {' and '.join(map(str, sorted(formats)))}", _EIGHT_BITS)
    return formats.pop()


def _check_kind(directory: Directory, layout: TiffLayout, kind: TiffKind) -> None:
    """Check that there is a reader for this combination."""
    named = f"a TIFF of {_FORMATS[kind.format]} {layout.bits}-bit samples"
    coded = layout.compression in _CODED_BITS
    if not coded and layout.compression not in PLAIN:
        raise UnreadableKind(f"a TIFF with compression {layout.compression}")
    in_planes = kind.alpha is not None and (kind.associated or layout.planar)
    if coded and (layout.bits != _CODED_BITS[layout.compression] or kind.format != UNSIGNED or in_planes):
        raise UnreadableKind(f"{named} with compression {layout.compression}", "save it with another compression")
    if layout.bits not in _WORDS.get(kind.format, range(1, 33)):
        raise UnreadableKind(named, _EIGHT_BITS)
    if kind.photometric in (YCBCR, CIELAB) and (layout.bits != 8 or kind.format != UNSIGNED):
        raise UnreadableKind(f"{named} in YCbCr or L*a*b*", "convert it to RGB")
    if kind.photometric in (YCBCR, CIELAB) and layout.samples != kind.colours:
        raise UnreadableKind("a TIFF in YCbCr or L*a*b* with alpha", "convert it to RGB")
    if kind.photometric == PALETTE and (layout.bits > 16 or kind.format != UNSIGNED):
        raise UnreadableKind(f"{named} with a palette", "convert it to RGB")
    if kind.associated and (kind.photometric not in (BLACK_IS_ZERO, RGB) or kind.format != UNSIGNED):
        raise UnreadableKind(f"{named} multiplied with alpha, inverted, in CMYK or with a palette", "convert it to RGB")
    dots = [int(value) for value in directory.values(Tag.DOT_RANGE, (0, (1 << layout.bits) - 1))]
    if kind.photometric == CMYK and (directory.number(Tag.INK_SET, 1) != 1 or dots[:2] != [0, (1 << layout.bits) - 1]):
        raise UnreadableKind("a TIFF of other inks than CMYK, or of a range of its own", "convert it to RGB")


def _read_range(directory: Directory, layout: TiffLayout, kind: TiffKind) -> tuple[float, float]:
    """Return what signed and floating-point samples range over: only the file says it."""
    low = set(directory.values(Tag.SMIN_SAMPLE_VALUE))
    high = set(directory.values(Tag.SMAX_SAMPLE_VALUE))
    named = f"a TIFF of {_FORMATS[kind.format]} {layout.bits}-bit samples"
    if not (len(low) == len(high) == 1 and -_LARGEST <= min(low) < max(high) <= _LARGEST):
        raise UnreadableKind(f"{named} without a known range (SMinSampleValue, SMaxSampleValue)", _EIGHT_BITS)
    return float(low.pop()), float(high.pop())


def _decode(data: bytes, directory: Directory, layout: TiffLayout, kind: TiffKind) -> Image:
    from PIL import Image as Pillow

    palette = _read_palette(directory, layout) if kind.photometric == PALETTE else None
    grey = kind.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    mode = ("L" if grey else "RGB") + ("A" if kind.alpha is not None else "")
    image = Pillow.new(mode, (layout.width, layout.height))
    for top, samples in layout.bands(data):
        levels = _to_colours(samples, layout.bits, kind, palette)
        if kind.alpha is not None:
            alpha = _to_levels(samples[:, :, kind.alpha : kind.alpha + 1], layout.bits, kind)
            levels = np.concatenate([levels, alpha], axis=2)
        image.paste(Pillow.fromarray(levels[:, :, 0] if mode == "L" else levels), (0, top))
    return image


def _to_colours(samples: Samples, bits: int, kind: TiffKind, palette: Levels | None) -> Levels:
    """Return grey [rows, width, 1] or RGB [rows, width, 3] of 8 bits."""
    from PIL import Image as Pillow

    colours = samples[:, :, : kind.colours]
    if palette is not None:
        return palette[colours[:, :, 0]]
    if kind.associated and kind.alpha is not None:
        return unmultiply(colours, samples[:, :, kind.alpha : kind.alpha + 1])
    levels = _to_levels(colours, bits, kind)
    if kind.photometric == WHITE_IS_ZERO:
        return 255 - levels
    if kind.photometric in (CMYK, CIELAB):
        mode = "CMYK" if kind.photometric == CMYK else "LAB"
        band = Pillow.frombytes(mode, (levels.shape[1], levels.shape[0]), levels.tobytes())
        return np.asarray(band.convert("RGB"))
    return levels


def _to_levels(samples: Samples, bits: int, kind: TiffKind) -> Levels:
    if kind.format == UNSIGNED:
        return to_eight_bits(samples, bits)
    typed = np.ascontiguousarray(samples).view(f"{'i' if kind.format == SIGNED else 'f'}{bits // 8}")
    return spread(typed, kind.low, kind.high)


def _read_palette(directory: Directory, layout: TiffLayout) -> Levels:
    """Return the palette as RGB [entries, 3].

    Writers fill 16 bits by value * 256 or value * 257: the high byte is the value with both.
    """
    entries = directory.values(Tag.COLOR_MAP)
    if len(entries) != 3 << layout.bits or max(entries) >= _COLOUR_LEVELS:
        raise ValueError(f"its palette has {len(entries)} numbers: expected {3 << layout.bits} of 16 bits")
    if 0 < max(entries) < 256:
        raise UnreadableKind("a TIFF whose palette has 8 bits a colour instead of 16", "convert it to RGB")
    return (np.array(entries, np.uint16) >> 8).astype(np.uint8).reshape(3, -1).T


#: Tags that libtiff needs for decoding.
_DECODING = (
    Tag.IMAGE_WIDTH, Tag.IMAGE_LENGTH, Tag.BITS_PER_SAMPLE, Tag.COMPRESSION, Tag.FILL_ORDER, Tag.SAMPLES_PER_PIXEL,
    Tag.ROWS_PER_STRIP, Tag.PLANAR_CONFIGURATION, Tag.T4_OPTIONS, Tag.T6_OPTIONS, Tag.PREDICTOR, Tag.COLOR_MAP,
    Tag.TILE_WIDTH, Tag.TILE_LENGTH, Tag.JPEG_TABLES, Tag.YCBCR_COEFFICIENTS, Tag.YCBCR_SUBSAMPLING,
    Tag.YCBCR_POSITIONING, Tag.REFERENCE_BLACK_WHITE, Tag.EXTRA_SAMPLES,
)  # fmt: skip


def _libtiff_mode(layout: TiffLayout, kind: TiffKind) -> tuple[str, str] | None:
    """Return Pillow's mode, and how it is stored, for samples that libtiff gives as they are to be; None for others."""
    if kind.photometric == YCBCR:
        return "RGB", "RGBX"
    plain = layout.bits == 8 and kind.format == UNSIGNED and layout.predictor in (1, 2)
    if plain and not layout.planar and layout.samples == kind.colours:
        return {BLACK_IS_ZERO: ("L", "L"), RGB: ("RGB", "RGB"), CMYK: ("CMYK", "CMYK")}.get(kind.photometric)
    return None


def _decode_by_libtiff(data: bytes, directory: Directory, layout: TiffLayout, kind: TiffKind) -> Image:
    """Return an image whose compression, or colours, only libtiff knows."""
    from PIL import Image as Pillow

    tags: dict[int, tuple[int, Values]] = {tag: directory.tags[tag] for tag in _DECODING if tag in directory}
    tags[Tag.PHOTOMETRIC] = 3, np.array([kind.photometric], np.uint16)
    small, at = tiff_layout.write_tiff(tags, layout.pieces(data, range(layout.blocks)), layout.tiled)
    if layout.compression in PLAIN:
        mode, stored = _libtiff_mode(layout, kind) or ("", "")
        return tiff_layout.decode_tiff(mode, (layout.width, layout.height), small, at, stored)
    # The tables of an old-style JPEG are anywhere in the file.
    image = Pillow.open(io.BytesIO(data if layout.compression == _OLD_JPEG else small), formats=("TIFF",))
    image.load()
    return image.convert("RGB") if image.mode == "LAB" else image
