"""What is asked, and what the right answer is: many different questions a job, so that a mix-up shows.

    make_pool, a process of its own  -->  FILE.npz  --load_pool-->  questions, each with its answer

Jobs: `tiny` (three floats), `tensor` (an image, 602 KB of float32), `jpeg` (a photo-like file, best five classes back).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Largest difference of a float of an answer.
TOLERANCE = 1e-3
TOP = 5
#: Of the best classes, how many must be the expected ones: decoding a JPEG at a smaller scale moves the last ones.
TOP_COMMON = 4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Job:
    """One kind of request."""

    name: str
    #: A kind of thriftserve_bench.builders.
    model: str
    input: str
    output: str
    clients: tuple[int, ...]
    #: How many different questions there are.
    pool: int

    @property
    def net(self) -> bool:
        """Whether the model's own work outweighs everything else."""
        return self.model == "mobilenet_v2"


JOBS = (
    Job("tiny", "half_plus_two", "x", "y", (1, 8, 64), pool=64),
    Job("tensor", "mobilenet_v2", "image", "scores", (8, 32), pool=16),
    Job("jpeg", "mobilenet_v2", "image", "scores", (8, 32), pool=16),
)


def job_of(name: str) -> Job:
    """The job of that name."""
    return next(one for one in JOBS if one.name == name)


@dataclass(frozen=True)
class Question:
    """One request's content and its answer.

    Attributes:
        content: float32, C order, of `shape`; of the job `jpeg` the file.
        shape: of the content; empty for a file.
        answer: float32 values; of the job `jpeg` class numbers, best first.
    """

    content: bytes
    shape: tuple[int, ...]
    answer: Array


def save_pool(path: Path, questions: Sequence[Question]) -> None:
    """Writes questions and answers as one .npz file."""
    arrays: dict[str, Array] = {}
    for number, one in enumerate(questions):
        arrays[f"content{number}"] = np.frombuffer(one.content, np.uint8)
        arrays[f"shape{number}"] = np.array(one.shape, np.int64)
        arrays[f"answer{number}"] = one.answer
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for flags


def load_pool(path: Path) -> list[Question]:
    """Reads what `save_pool` wrote.

    Raises:
        OSError: there is no such file.
    """
    with np.load(path) as arrays:
        return [
            Question(
                arrays[f"content{number}"].tobytes(),
                tuple(int(size) for size in arrays[f"shape{number}"]),
                arrays[f"answer{number}"],
            )
            for number in range(len(arrays.files) // 3)
        ]


class WrongAnswer(Exception):
    """A reply came that is not the answer to its question."""


def check_values(found: Array, answer: Array) -> None:
    """Compares floats.

    Raises:
        WrongAnswer: another count, or a value further away than TOLERANCE.
    """
    if found.shape != answer.shape:
        raise WrongAnswer(f"{found.shape} values, expected {answer.shape}")
    difference = float(np.max(np.abs(found - answer)))
    if not difference <= TOLERANCE:
        raise WrongAnswer(f"a value differs by {difference:g}")


def same_classes(found: Sequence[int], answer: Array) -> bool:
    """Whether these are the best classes: the same one first, and all but one of the others."""
    return len(found) == TOP and found[0] == answer[0] and len(set(found) & set(answer.tolist())) >= TOP_COMMON


def check_classes(found: Sequence[int], answer: Array) -> None:
    """Compares the numbers of the best classes.

    Raises:
        WrongAnswer: another best class, or more than one of the others is not expected.
    """
    if not same_classes(found, answer):
        raise WrongAnswer(f"classes {list(found)}, expected {answer.tolist()}")
