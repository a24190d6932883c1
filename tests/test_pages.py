"""Memory given back: pages of files that are only read, and no others."""

from __future__ import annotations

import doctest
import subprocess
import sys

from thriftserve.supervisor import fork_server

_PROGRAM = """
import ctypes, sys
from thriftserve.supervisor.fork_server import forget_clean_pages
import numpy as np
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")) * 1024
numbers = np.random.default_rng(1).random(1_000_000)
before, told = resident(), numbers.sum()
given = forget_clean_pages()
assert given > 1_000_000, given
assert resident() < before - given // 2, (before, resident(), given)
assert numbers.sum() == told
assert np.linalg.norm(numbers) > 0
import decimal, json, sqlite3
print("sound", ctypes.CDLL(None).getpid() > 0, json.dumps([1]))
"""


def test_the_example_in_the_text() -> None:
    """What the docstring shows is what happens."""
    assert doctest.testmod(fork_server).failed == 0


def test_pages_go_and_the_process_stays_sound() -> None:
    """A process that gave its clean pages back has less in memory, and goes on computing, importing and calling."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout == "sound True [1]\n", done.stderr
