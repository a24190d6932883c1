"""Versions that are copied in slowly, file by file, and damaged ones, below a server that looks on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from copied_models import ASSET, FIRST, INDEX, PARTS, PB, SECOND, whole_version
from served import Served
from small_models import small

#: Each begins and ends with another file; one is backwards. test_repository_integrity.py has every order there is.
ORDERS = [*((*PARTS[at:], *PARTS[:at]) for at in range(len(PARTS))), PARTS[::-1]]


def cut(version: Path, name: str) -> None:
    """Leaves the first half of a file, of the asset nothing: no file tells how long it should be."""
    content = (version / name).read_bytes()
    (version / name).write_bytes(b"" if name == ASSET else content[: len(content) // 2])


DAMAGE: list[Callable[[Path], object]] = [
    *(lambda version, name=name: (version / name).unlink() for name in (PB, INDEX, SECOND, ASSET)),
    *(lambda version, name=name: cut(version, name) for name in (PB, INDEX, FIRST)),
    lambda version: shutil.copy(small("half_plus_two") / "1" / PB, version / PB),
]


def put(base: Path, version: int, damage: Callable[[Path], object] | None = None) -> None:
    """A version that appears at once, whole or damaged."""
    beside = Path(shutil.copytree(whole_version(), base / f"{version}.tmp"))
    if damage is not None:
        damage(beside)
    beside.rename(base / str(version))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    """A server of a model for each order and each damage, all at version 1, and of "whole"; not begun yet."""
    names = ["whole", *(f"order{at}" for at in range(len(ORDERS))), *(f"damage{at}" for at in range(len(DAMAGE)))]
    for name in names:
        put(tmp_path / name, 1)
    models = [word for name in names for word in ("--model", f"{name}={tmp_path / name}")]
    return Served(*models, "--file-system-poll-s", "0.05", "--server-type", "TThreadPoolServer")


class Copies:
    """Version 2 of each "order" model, file by file.

    Args:
        place: of the base paths.
    """

    def __init__(self, place: Path) -> None:
        self._whole = {name: (whole_version() / name).read_bytes() for name in PARTS}
        self._versions = [place / f"order{at}" / "2" for at in range(len(ORDERS))]
        for version in self._versions:
            for folder in ("variables", "assets"):
                (version / folder).mkdir(parents=True)

    def step(self, number: int) -> None:
        """The file before is whole now, and half of the next is there, in each order; after the last there is none."""
        for version, order in zip(self._versions, ORDERS, strict=True):
            for name in order[max(0, number - 1) : number + 1]:
                (version / name).write_bytes(self._whole[name])
            if number < len(order):
                cut(version, order[number])


def test_what_is_not_whole_is_never_served(served: Served, tmp_path: Path) -> None:
    """Half files, missing files and another model's graph keep the old version; the last file brings the new one.

    After each step a whole version of another model appears: once that is served, all base paths have been looked at.
    """
    orders = [f"order{at}" for at in range(len(ORDERS))]
    damaged = [f"damage{at}" for at in range(len(DAMAGE))]
    with served as server, server.client() as client:

        def versions() -> dict[str, dict[int, str]]:
            return {one.name: {each.version: each.state for each in one.versions} for one in client.models()}

        for name, damage in zip(damaged, DAMAGE, strict=True):
            put(tmp_path / name, 2, damage)
        copies = Copies(tmp_path)
        for step in range(len(PARTS)):
            copies.step(step)
            put(tmp_path / "whole", 2 + step)
            while versions()["whole"].get(2 + step) != "AVAILABLE":
                time.sleep(0.02)
            found = versions()
            assert all(found[name] == {1: "AVAILABLE"} for name in orders + damaged), (step, found)
        copies.step(len(PARTS))
        while not all(versions()[name].get(2) == "AVAILABLE" != versions()[name].get(1) for name in orders):
            time.sleep(0.02)  # while both are there, either may answer
        for name in orders:
            answer = client.predict(name, {"word": np.array(["one"], dtype=object)})
            assert (answer.version, answer["number"].tolist()) == (2, [4.0])
        assert all(versions()[name] == {1: "AVAILABLE"} for name in damaged)
        assert all(f"{name}/2: is incomplete" in server.log() for name in damaged)
        assert "can't be loaded" not in server.log()
