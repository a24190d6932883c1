"""Files that are no image of ours, recognised by their first bytes: what somebody sent, and what to send instead."""

from __future__ import annotations

import re

from thriftserve.models.image_formats.opened import UnreadableKind

#: Bytes that the table is compared with.
_HEAD_BYTES = 1024
_CONVERT = "convert it to JPEG or PNG"
_RENDER = "render it to PNG"
_AS_BYTES = "send the image's own bytes"

_FLAGS = re.DOTALL | re.IGNORECASE
#: The first bytes -> what it is, and the remedy. The first that fits counts.
_KINDS = (
    (rb".{4}ftypavi[fs]", "an AVIF image", _CONVERT),
    (rb".{4}ftyphe[iv]", "a HEIC image", _CONVERT),
    (rb".{4}ftypm[is]f1.{4}.*?avi[fs]", "an AVIF image", _CONVERT),
    (rb".{4}ftypm[is]f1", "a HEIF image", _CONVERT),
    (rb".{4}ftypcrx", "a camera's raw file", _CONVERT),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", "a video", "send a frame of it as JPEG or PNG"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n", "a JPEG XL image", _CONVERT),
    (rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n", "a JPEG 2000 image", _CONVERT),
    (rb"II\xbc\x01", "a JPEG XR image", _CONVERT),
    (rb"%PDF-", "a PDF document", _RENDER),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file", _RENDER),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "a Windows metafile (WMF or EMF)", _RENDER),
    (rb"\s*<(!doctype )?html", "an HTML page", "send the image it shows"),
    (rb"\s*<(svg|[?!].*?<svg)[\s/>]", "an SVG drawing", _RENDER),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]", "a Windows icon or cursor (ICO, CUR)", _CONVERT),
    (rb"8BPS", "a Photoshop document (PSD)", _CONVERT),
    (rb"P[1-7][\s#]|PF\s", "a Netpbm image (PBM, PGM, PPM, PAM or PFM)", _CONVERT),
    (rb"\x01\xda[\x00\x01][\x01\x02]", "an SGI image", _CONVERT),
    (rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]", "a PCX image", _CONVERT),
    (rb"DDS ", "a DirectDraw texture (DDS)", _CONVERT),
    (rb"\x76\x2f\x31\x01", "an OpenEXR image", _CONVERT),
    (rb"#\?R(ADIANCE|GBE)", "a Radiance HDR image", _CONVERT),
    (rb"[\x8a\x8b][MJ]NG\r\n", "an MNG or JNG image", _CONVERT),
    (rb".{128}DICM", "a DICOM file", _CONVERT),
    (rb"SIMPLE  =", "a FITS file", _CONVERT),
    (rb"FUJIFILMCCD-RAW|IIU\x00|IIR[OS]|MMOR", "a camera's raw file", _CONVERT),
    (rb"\x93NUMPY", "a numpy array", "send it as a tensor"),
    (rb"\x1f\x8b|PK\x03\x04|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd", "a compressed file or an archive", _AS_BYTES),
    (rb"data:|/9j/|iVBORw0KGgo|R0lGODdh|R0lGODlh|UklGR|SUkqA|TU0AK", "an image in Base64", _AS_BYTES),
)
_PATTERNS = tuple((re.compile(pattern, _FLAGS), name, remedy) for pattern, name, remedy in _KINDS)


def check_not_foreign(data: bytes) -> None:
    """Check that a file is none of the kinds that are known by name.

    Raises:
        UnreadableKind: It is one; the message says which.
    """
    head = data[:_HEAD_BYTES]
    for pattern, name, remedy in _PATTERNS:
        if pattern.match(head):
            raise UnreadableKind(name, remedy)
