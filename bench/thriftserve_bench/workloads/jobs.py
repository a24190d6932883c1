"""The jobs of `peers`: requests and the right answers; many samples a job, so that a mix-up shows.

    make_samples, a process of its own  -->  FILE.npz  --load_samples-->  samples, each with its answer

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


class WrongAnswer(Exception):
    """A reply is not the answer to its request, or there is none; the message says what differs."""


@dataclass(frozen=True)
class Job:
    """A kind of request."""

    name: str
    #: A kind of `builders`.
    model: str
    input: str
    output: str
    clients: tuple[int, ...]
    #: Number of samples.
    samples: int

    @property
    def net(self) -> bool:
        """Whether the model's own work outweighs everything else."""
        return self.model == "mobilenet_v2"


JOBS = {
    job.name: job
    for job in (
        Job("tiny", "half_plus_two", "x", "y", (1, 8, 64), samples=64),
        Job("tensor", "mobilenet_v2", "image", "scores", (8, 32), samples=16),
        Job("jpeg", "mobilenet_v2", "image", "scores", (8, 32), samples=16),
    )
}


@dataclass(frozen=True)
class Sample:
    """One request's content and its answer.

    Attributes:
        content: float32, C order, of `shape`; of the job `jpeg` the file.
        shape: of the content; empty for a file.
        answer: float32 values; of the job `jpeg` class numbers, best first.
    """

    content: bytes
    shape: tuple[int, ...]
    answer: Array


def save_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples as one .npz file."""
    arrays: dict[str, Array] = {}
    for number, sample in enumerate(samples):
        arrays[f"content{number}"] = np.frombuffer(sample.content, np.uint8)
        arrays[f"shape{number}"] = np.array(sample.shape, np.int64)
        arrays[f"answer{number}"] = sample.answer
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for flags


def load_samples(path: Path) -> list[Sample]:
    """Read what `save_samples` wrote.

    Raises:
        OSError: there is no such file.
    """
    with np.load(path) as arrays:
        return [
            Sample(
                arrays[f"content{number}"].tobytes(),
                tuple(int(size) for size in arrays[f"shape{number}"]),
                arrays[f"answer{number}"],
            )
            for number in range(len(arrays.files) // 3)
        ]


def check_values(values: Array, answer: Array) -> None:
    """Compare floats.

    Raises:
        WrongAnswer: another count, or a value that differs by more than TOLERANCE.
    """
    if values.shape != answer.shape:
        raise WrongAnswer(f"{values.shape} values, expected {answer.shape}")
    difference = float(np.max(np.abs(values - answer)))
    if not difference <= TOLERANCE:
        raise WrongAnswer(f"a value differs by {difference:g}")


def same_classes(classes: Sequence[int], answer: Array) -> bool:
    """Return whether the best class is the expected one, and all but one of the others are."""
    return len(classes) == TOP and classes[0] == answer[0] and len(set(classes) & set(answer.tolist())) >= TOP_COMMON


def check_classes(classes: Sequence[int], answer: Array) -> None:
    """Compare the numbers of the best classes.

    Raises:
        WrongAnswer: another best class, or more than one of the others is unexpected.
    """
    if not same_classes(classes, answer):
        raise WrongAnswer(f"classes {list(classes)}, expected {answer.tolist()}")
