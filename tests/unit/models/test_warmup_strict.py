"""--strict-warmup on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from served import Served
from thriftserve.errors import ExitCode
from thriftserve_bench.workloads import builders


def test_a_bad_record_fails_the_load_where_that_is_asked_for(tmp_path: Path) -> None:
    """A warm-up file that can't be read is a line in the log, or with --strict-warmup the reason not to start."""
    base = builders.build("half_plus_two", tmp_path)
    extra = base / "1" / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / "tf_serving_warmup_requests").write_bytes(b"no records at all, and long enough to be looked at")
    with Served("--model", f"h={base}", "--workers", "1") as server:
        assert "tf_serving_warmup_requests" in server.log()
    with (
        pytest.raises(AssertionError, match=f"exit code {int(ExitCode.MODEL_LOAD)}") as caught,
        Served("--model", f"h={base}", "--workers", "1", "--strict-warmup"),
    ):
        pass
    assert "without strict_warmup" in str(caught.value)
