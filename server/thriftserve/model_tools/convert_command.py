"""`thriftserve model convert SOURCE TARGET`: what training wrote becomes a version that can be served.

NAME.meta … | model.keras | model.h5  -->  .converting-1  --rename-->  BASE_PATH/1
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from thriftserve.errors import ConfigError, ExitCode, ModelLoadError
from thriftserve.model_tools.checkpoint import Naming, convert
from thriftserve.models import devices, meta_graph
from thriftserve.models.preload import preload
from thriftserve.models.saved_model import reason

_KERAS = (".keras", ".h5", ".hdf5")


def run(flags: argparse.Namespace) -> int:
    """Converts a model.

    Returns:
        0.

    Raises:
        StartError: a flag is wrong, or the source can't be read.
    """
    target = Path(flags.target).expanduser().absolute()
    if target.exists():
        raise ConfigError(f"{target}: is there already: give a new version directory")
    source = _source(Path(flags.source).expanduser().absolute())
    naming = Naming(_named(flags.input, "input"), _named(flags.output, "output"), flags.signature)
    if source.suffix in _KERAS and (naming.inputs or naming.outputs):
        raise ConfigError("a Keras file names its inputs and outputs itself: --input and --output are for checkpoints")
    devices.claim(devices.CPU)
    preload()
    scratch = target.with_name(f".converting-{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in _KERAS:
            _export(source, scratch)
        else:
            convert(source, scratch, naming)
        found = meta_graph.described(scratch)
        os.rename(scratch, target)
    except OSError as error:
        raise ConfigError(f"{target}: can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{target}: written, with the signatures {', '.join(found)}; thriftserve model check {target} tries it")
    return ExitCode.OK


def _source(path: Path) -> Path:
    """The Keras file, or the checkpoint without the endings of its files."""
    if path.suffix in _KERAS:
        if not path.is_file():
            raise ModelLoadError(f"{path}: there is no such file")
        return path
    prefix = path.with_suffix("") if path.suffix in (".meta", ".index") else path
    for ending in (".meta", ".index"):
        if not Path(f"{prefix}{ending}").is_file():
            raise ModelLoadError(
                f"{prefix}{ending}: there is no such file: a checkpoint is given by the NAME of its files "
                "NAME.meta, NAME.index and NAME.data-…, a Keras model by its .keras or .h5 file"
            )
    return prefix


def _named(texts: Iterable[str], flag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, tensor = text.partition("=")
        if not (name and equals and tensor) or name in found:
            raise ConfigError(f"{flag} is {text!r}: write NAME=TENSOR, each name once, like x=x:0")
        found[name] = tensor
    return found


def _export(source: Path, target: Path) -> None:
    import keras

    try:
        # Loading never runs code that the file brings: Keras refuses that by default.
        keras.models.load_model(source, compile=False).export(str(target), verbose=False)
    except Exception as error:
        raise ModelLoadError(f"{source}: Keras can't make a SavedModel of it: {reason(error)}") from error
