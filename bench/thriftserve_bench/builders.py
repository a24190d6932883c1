"""Makes small SavedModels for tests, demos and benchmarks, each in a few seconds.

    python -m thriftserve_bench.builders half_plus_two /tmp/models  -->  /tmp/models/half_plus_two/1/saved_model.pb

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

from thriftserve_bench.blueprint import Blueprint
from thriftserve_bench.plain_tensorflow import plain_tensorflow

#: Each kind and where it is made; imported when it is asked for.
KINDS: Mapping[str, str] = {
    "half_plus_two": "thriftserve_bench.vector_models:half_plus_two",
    "text_classifier": "thriftserve_bench.vector_models:text_classifier",
    "saliency": "thriftserve_bench.image_models:saliency",
    "detector": "thriftserve_bench.image_models:detector",
    "image_classifier": "thriftserve_bench.image_models:image_classifier",
    "mobilenet_v2": "thriftserve_bench.mobilenet:mobilenet_v2",
}


def build(kind: str, directory: Path | str, name: str | None = None, version: int = 1) -> Path:
    """Writes a model in TensorFlow Serving's layout; a version appears whole or not at all.

    Args:
        kind: a key of KINDS.
        directory: where base paths go; it is made where missing.
        name: the base path's own name; None: the kind.
        version: number of the version directory.

    Returns:
        The base path, `directory/name`.

    Raises:
        FileExistsError: that version is there already.
    """
    base_path = Path(directory) / (name or kind)
    target = base_path / str(version)
    if target.exists():
        raise FileExistsError(f"{target} is there already: remove it, or give another version")
    base_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base_path, prefix=".building-") as scratch:
        made = Path(scratch) / "model"
        _write(_blueprint(kind), made)
        shutil.move(made, target)
    return base_path


def _blueprint(kind: str) -> Blueprint:
    module_name, _, function_name = KINDS[kind].partition(":")
    plain_tensorflow()  # before the models import it
    make: Callable[[], Blueprint] = getattr(importlib.import_module(module_name), function_name)
    return make()


def _write(blueprint: Blueprint, path: Path) -> None:
    tf = plain_tensorflow()
    tf.saved_model.save(blueprint.module, str(path), signatures=dict(blueprint.signatures))
    files: dict[str, str] = {}
    if blueprint.labels:
        files["labels.txt"] = "".join(f"{label}\n" for label in blueprint.labels)
    if blueprint.image_toml:
        files["image.toml"] = blueprint.image_toml
    extra = path / "assets.extra"
    if files:
        extra.mkdir()
    for name, content in files.items():
        (extra / name).write_text(content, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the base path of each model made."""
    parser = argparse.ArgumentParser(
        prog="python -m thriftserve_bench.builders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=[*KINDS, "all"], help="what to make")
    parser.add_argument("directory", type=Path, help="where the base paths go")
    parser.add_argument("--name", help="the base path's own name (default: the kind)")
    parser.add_argument("--version", type=int, default=1, help="number of the version directory (default: 1)")
    told = parser.parse_args(arguments)
    if told.kind == "all" and told.name:
        parser.error("--name names one model: give a kind other than all")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for kind in KINDS if told.kind == "all" else (told.kind,):
        try:
            print(build(kind, told.directory, told.name, told.version))
        except OSError as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
