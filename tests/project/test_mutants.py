"""`make mutants`: what it changes, and what it leaves alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mutants

SOURCE = """
import logging
def rest(left: int, limit: int = -1) -> bool:
    assert left > 0
    logging.info("%s", left + 1)
    if not left or left < limit and left - 1 in (1, 2):
        return left is None
    return left + 1 >= limit
"""


def test_every_decision_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons, boolean operators, signs and negations; no assertions, no annotations."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    (tmp_path / "m.py").write_text(SOURCE, encoding="utf-8")
    found = list(mutants.mutants(Path("m.py")))
    changes = {f"{each.before} -> {each.after}" for each in found}
    assert {
        "left < limit -> left <= limit",
        "left - 1 -> left + 1",
        "not left -> left",
        "left is None -> left is not None",
        "left + 1 >= limit -> left + 1 > limit",
        "-1 -> 1",
    } <= changes
    assert not any("left > 0" in change for change in changes)
    source = SOURCE.encode()
    for each in found:
        changed = source[: each.start] + f"({each.after})".encode() + source[each.end :]
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), each
