"""The report of a sweep, out of its raw results alone.

FILE.json  -->  SweepRun  -->  DIR/README.md: the table and the plots
"""

from __future__ import annotations

from pathlib import Path

from thriftserve_bench.records.sweep import SweepRun
from thriftserve_bench.report.sweep import table
from thriftserve_bench.report.sweep_plots import plots


def write_page(run: SweepRun, directory: Path) -> Path:
    """Writes the table and the plots (PNG and SVG) into a directory, which is made where missing.

    Returns:
        The page, DIR/README.md; it shows the plots as SVG.
    """
    drawn = [one for one in plots(run, directory) if one.suffix == ".svg"]
    page = directory / "README.md"
    page.write_text(table(run) + "".join(f"\n![{one.stem}]({one.name})\n" for one in drawn), encoding="utf-8")
    return page
