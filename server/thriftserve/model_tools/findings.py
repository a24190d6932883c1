"""What a check of a model found, for people and for programs.

Findings  --lines-->  a table of signatures, faults, notes          --as_json-->  one object
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from thriftserve.models.signature import Signature, TensorSpec

_HEAD = ("signature", "", "name", "type", "shape")
_KEYS = ("signature", "side", "name", "dtype", "shape")


@dataclass
class Findings:
    """What was found. It passes from the process that loads the model as JSON, so it has nothing but plain values."""

    path: str
    #: What keeps it from being served, in words.
    faults: list[str] = field(default_factory=list)
    #: What is worth knowing and does not.
    notes: list[str] = field(default_factory=list)
    #: Rows of the table: signature, "in" or "out", name, type, shape.
    tensors: list[list[str]] = field(default_factory=list)
    #: Runs with zeros: signature, rows, milliseconds.
    runs: list[tuple[str, int, float]] = field(default_factory=list)
    load_s: float | None = None

    @property
    def good(self) -> bool:
        """Whether it can be served."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        tensors = [dict(zip(_KEYS, row, strict=True)) for row in self.tensors]
        runs = [{"signature": name, "rows": rows, "ms": round(ms, 3)} for name, rows, ms in self.runs]
        return {"good": self.good, **asdict(self), "tensors": tensors, "runs": runs}

    def describe(self, signatures: Mapping[str, Signature]) -> None:
        """Notes the signatures."""
        for name, one in signatures.items():
            for side, specs in (("in", one.inputs), ("out", one.outputs)):
                self.tensors += [[name, side, key, spec.dtype.name, shape_text(spec)] for key, spec in specs.items()]


def shape_text(spec: TensorSpec) -> str:
    """A shape for people: a size that may be any is "?"."""
    if spec.shape is None:
        return "any"
    return f"[{', '.join('?' if size is None else str(size) for size in spec.shape)}]"


def lines(found: Findings) -> Iterator[str]:
    """What a terminal shows."""
    yield found.path
    if found.tensors:
        rows = [_HEAD, *map(tuple, found.tensors)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        for row in rows:
            cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            yield f"  {'  '.join(cells)}".rstrip()
    if found.load_s is not None:
        yield f"  loaded in {found.load_s:.1f} s"
    for name, rows_run, took_ms in found.runs:
        yield f"  {name} ran with {rows_run} {'row' if rows_run == 1 else 'rows'} of zeros in {took_ms:.1f} ms"
    yield from (f"  note: {one}" for one in found.notes)
    yield from (f"  fault: {one}" for one in found.faults)
    yield "  good: it can be served" if found.good else "  it can't be served"
