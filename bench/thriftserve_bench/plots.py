"""Pictures in files: the same picture has the same bytes.

figure  --save-->  DIR/NAME.png, DIR/NAME.svg

Figures are drawn without pyplot: they need no display, and none stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.7}
_DPI = 130
#: No random names in SVG files.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "thriftserve",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
}


def save_all(figures: Iterable[tuple[str, Figure]], directory: Path) -> list[Path]:
    """Write named figures as PNG and SVG into a directory, which is created, and return the files.

    The figures are made while they are iterated over: they get the style of all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with mpl.rc_context(_STYLE):
        for name, figure in figures:
            for kind, metadata in (("png", {}), ("svg", {"Date": None})):
                path = directory / f"{name}.{kind}"
                figure.savefig(path, dpi=_DPI, metadata=metadata)
                written.append(path)
    return written


def log_seconds(axes: Axes, name: str) -> None:
    """Make an axis ("x" or "y") logarithmic, with plain numbers on it."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    axes.set(**{f"{name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
