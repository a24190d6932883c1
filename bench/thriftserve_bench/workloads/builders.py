"""Makes small SavedModels for tests, demos and benchmarks, each in a few seconds.

    python -m thriftserve_bench.workloads.builders half_plus_two /tmp/models
    -->  /tmp/models/half_plus_two/1/saved_model.pb

Each kind is a complete model with real behaviour, small enough to be made where it is needed:

    half_plus_two       x FLOAT [n] -> y = x/2 + 2; also half_plus_three, and a signature without inputs
    text_classifier     words STRING [n,t], nwords INT32 [n] -> classes_id, labels, softmax; through a lookup table
    saliency            img_in FLOAT [1,320,320,3] -> img_out FLOAT [1,320,320,1]: what stands out
    detector            input_tensor UINT8 [1,h,w,3] -> the object-detection API's outputs: coloured rectangles
    image_classifier    image FLOAT [n,28,28,1] -> scores: horizontal or vertical stripes, or blank
    mobilenet_v2        image FLOAT [n,224,224,3] -> scores FLOAT [n,1000]: untrained, but of full size, 14 MB
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from thriftserve_bench.workloads.saved_model import ModelSource, plain_tensorflow

#: Each kind and the function that makes it; imported when needed.
KINDS: Mapping[str, str] = {
    "half_plus_two": "thriftserve_bench.workloads.small_models:half_plus_two",
    "text_classifier": "thriftserve_bench.workloads.small_models:text_classifier",
    "saliency": "thriftserve_bench.workloads.small_models:saliency",
    "detector": "thriftserve_bench.workloads.small_models:detector",
    "image_classifier": "thriftserve_bench.workloads.small_models:image_classifier",
    "mobilenet_v2": "thriftserve_bench.workloads.mobilenet:mobilenet_v2",
}


def build(kind: str, directory: Path | str, name: str | None = None, version: int = 1) -> Path:
    """Write a model in TensorFlow Serving's layout; the version directory appears complete or not at all.

    Args:
        kind: a key of KINDS.
        directory: where base paths go; it is created.
        name: of the base path; None: the kind.
        version: number of the version directory.

    Returns:
        The base path, `directory/name`.

    Raises:
        FileExistsError: the version exists already.
    """
    base_path = Path(directory) / (name or kind)
    target = base_path / str(version)
    if target.exists():
        raise FileExistsError(f"{target} is there already: remove it, or give another version")
    base_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base_path, prefix=".building-") as scratch:
        unfinished = Path(scratch) / "model"
        _source(kind).write(unfinished)
        shutil.move(unfinished, target)
    return base_path


def _source(kind: str) -> ModelSource:
    module_name, _, function_name = KINDS[kind].partition(":")
    plain_tensorflow()  # before the models import it
    make: Callable[[], ModelSource] = getattr(importlib.import_module(module_name), function_name)
    return make()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, which prints the base path of each model."""
    parser = argparse.ArgumentParser(
        prog="python -m thriftserve_bench.workloads.builders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=[*KINDS, "all"], help="what to make")
    parser.add_argument("directory", type=Path, help="where the base paths go")
    parser.add_argument("--name", help="the base path's own name (default: the kind)")
    parser.add_argument("--version", type=int, default=1, help="number of the version directory (default: 1)")
    flags = parser.parse_args(arguments)
    if flags.kind == "all" and flags.name:
        parser.error("--name names one model: give a kind other than all")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for kind in KINDS if flags.kind == "all" else (flags.kind,):
        try:
            print(build(kind, flags.directory, flags.name, flags.version))
        except OSError as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
