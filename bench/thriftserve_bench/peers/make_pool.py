"""Makes the questions of a job and works out their answers, in a process of its own.

    python -m thriftserve_bench.peers.make_pool JOB MODEL/1 FILE.npz

The answers come from TensorFlow's own signature, one request at a time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from thriftserve_bench.peers.pictures import photo, pixels
from thriftserve_bench.peers.questions import TOLERANCE, Question, job_of, same_classes, save_pool
from thriftserve_bench.peers.user_model import UserModel, best
from thriftserve_bench.plain_tensorflow import plain_tensorflow

#: The best class is to win by this much, however the picture is decoded.
_CLEAR_LEAD = 0.005
_MOST_TRIES = 40


def tiny(model: UserModel, count: int) -> list[Question]:
    """Three floats each, all different."""
    found = []
    for number in range(count):
        x = np.array([number, number * 3 + 0.5, -number - 0.25], np.float32)
        found.append(Question(x.tobytes(), x.shape, model.run(x)))
    return found


def tensor(model: UserModel, count: int) -> list[Question]:
    """Pictures as float32."""
    inputs = [pixels(photo(number))[None] for number in range(count)]
    return [Question(x.tobytes(), x.shape, model.run(x)[0]) for x in inputs]


def jpeg(model: UserModel, count: int) -> list[Question]:
    """Pictures as files, whose classes tell them apart and do not depend on how they are decoded."""
    found: list[Question] = []
    for number in range(count * _MOST_TRIES):
        file = photo(number)
        plain, drafted = (best(model.run(pixels(file, draft=draft)[None])[0]) for draft in (False, True))
        one = Question(file, (), plain[0].astype(np.int64))
        lead = min(scores[0] - scores[1] for _, scores in (plain, drafted))
        if lead > _CLEAR_LEAD and same_classes(drafted[0].tolist(), one.answer) and not _like_another(one, found):
            found.append(one)
        if len(found) == count:
            break
    return found


def _like_another(one: Question, others: list[Question]) -> bool:
    return any(same_classes(one.answer.tolist(), other.answer) for other in others)


def main(arguments: list[str]) -> int:
    """Writes the pool."""
    job, path, out = arguments
    plain_tensorflow()  # before the model imports it
    model = UserModel(job, path)
    questions = {"tiny": tiny, "tensor": tensor, "jpeg": jpeg}[job](model, job_of(job).pool)
    for number, one in enumerate(questions):
        for other in questions[:number] if job != "jpeg" else ():
            if np.max(np.abs(one.answer - other.answer)) <= 10 * TOLERANCE:
                sys.exit(f"make_pool: two questions of {job} have the same answer: a mix-up would not show")
    save_pool(Path(out), questions)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
