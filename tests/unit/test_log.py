"""Lines about peers: how many of a kind are written."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from thriftserve import log


def record(text: str, *arguments: Any, level: int = logging.INFO) -> logging.LogRecord:
    """A record as loggers make it."""
    return logging.LogRecord("thriftserve.servers.connection", level, __file__, 1, text, arguments, None)


def test_lines_about_peers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some at once, then one a second of each kind; the next tells how many are missing. Others are all written."""
    now = 1000.0
    monkeypatch.setattr("thriftserve.log.time.monotonic", lambda: now)
    limit = log.PeerLimit()
    bad = [limit.filter(record("%s: closed: %s", "1.2.3.4:5", ValueError("x"))) for _ in range(200)]
    assert bad == [True] * 50 + [False] * 150
    assert limit.filter(record("%s: closed: %s", "1.2.3.4:5", OSError("another kind")))
    assert limit.filter(record("%s: rejected: %s", "1.2.3.4:5", "another text"))
    assert limit.filter(record("%s: failed", "m", level=logging.ERROR))
    assert all(limit.filter(record("loaded %s", "m")) for _ in range(200))
    now += 1
    following = record("%s: closed: %s", "1.2.3.4:5", ValueError("x"))
    assert limit.filter(following)
    assert following.getMessage() == "1.2.3.4:5: closed: x (and 150 more like it)"
    assert not limit.filter(record("%s: closed: %s", "1.2.3.4:5", ValueError("x")))
