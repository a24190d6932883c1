"""Makes the samples of a job and works out their answers, in a process of its own.

    python -m thriftserve_bench.workloads.make_samples JOB MODEL/1 FILE.npz

The answers come from TensorFlow's own signature, one request at a time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from thriftserve_bench.workloads.jobs import JOBS, TOLERANCE, Sample, same_classes, save_samples
from thriftserve_bench.workloads.photos import photo, pixels
from thriftserve_bench.workloads.saved_model import plain_tensorflow
from thriftserve_bench.workloads.user_model import UserModel, best_classes

#: The best class must win by this much, however the picture is decoded.
_CLEAR_LEAD = 0.005
_MOST_TRIES = 40


def tiny(model: UserModel, count: int) -> list[Sample]:
    """Return samples of three floats each, all different."""
    inputs = [np.array([number, number * 3 + 0.5, -number - 0.25], np.float32) for number in range(count)]
    return [Sample(x.tobytes(), x.shape, model.run(x)) for x in inputs]


def tensor(model: UserModel, count: int) -> list[Sample]:
    """Return pictures as float32."""
    inputs = [pixels(photo(number))[None] for number in range(count)]
    return [Sample(x.tobytes(), x.shape, model.run(x)[0]) for x in inputs]


def jpeg(model: UserModel, count: int) -> list[Sample]:
    """Return pictures as files, whose classes tell them apart and do not depend on how they are decoded."""
    samples: list[Sample] = []
    for number in range(count * _MOST_TRIES):
        file = photo(number)
        plain, drafted = (best_classes(model.run(pixels(file, draft=draft)[None])[0]) for draft in (False, True))
        sample = Sample(file, (), plain[0].astype(np.int64))
        lead = min(scores[0] - scores[1] for _, scores in (plain, drafted))
        stable = lead > _CLEAR_LEAD and same_classes(drafted[0].tolist(), sample.answer)
        if stable and not any(same_classes(sample.answer.tolist(), other.answer) for other in samples):
            samples.append(sample)
        if len(samples) == count:
            break
    return samples


def main(arguments: list[str]) -> int:
    """Write the samples."""
    job, path, out = arguments
    plain_tensorflow()  # before the model imports it
    samples = {"tiny": tiny, "tensor": tensor, "jpeg": jpeg}[job](UserModel(job, path), JOBS[job].samples)
    for number, sample in enumerate(samples):
        for other in samples[:number] if job != "jpeg" else ():
            if np.max(np.abs(sample.answer - other.answer)) <= 10 * TOLERANCE:
                sys.exit(f"make_samples: two samples of {job} have the same answer: a mix-up would not show")
    save_samples(Path(out), samples)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
