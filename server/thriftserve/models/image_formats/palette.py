"""Palette images use no colour that their palette lacks: what such a pixel shows, decoders disagree about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thriftserve.models.image_formats.samples import bands

if TYPE_CHECKING:
    from PIL.Image import Image


def check_palette(image: Image, entries: int, transparent: int | None = None) -> None:
    """Check that every index of a decoded palette image has a colour, or is the transparent one.

    Raises:
        ValueError: a pixel has another index.
    """
    if entries >= 256 or max(int(rows.max()) for _, rows in bands(image)) < entries:
        return
    missing = [index for index, count in enumerate(image.histogram()[:256]) if count and index >= entries]
    if [index for index in missing if index != transparent]:
        raise ValueError(f"it uses colour {missing[-1]} of a palette of {entries} colours")
