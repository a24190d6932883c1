"""The image.toml beside a version: what it may say, and what is told where it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from thriftserve.errors import ExitCode, ModelLoadError
from thriftserve.repository.image_settings import ImageSettings, load, load_file

WHOLE = """
input = "image"
height = 224
width = 200
channels = 3
scale = [0.5, 0.25, 1]
offset = -1
fit = "crop"
resample = "bicubic"
background = [1, 2, 3]
scores = "probabilities"
"""


def test_every_key_is_read(tmp_path: Path) -> None:
    """Each key of the file becomes the field of its name; lists become tuples."""
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "image.toml").write_text(WHOLE)
    assert load(tmp_path) == ImageSettings(
        input="image",
        height=224,
        width=200,
        channels=3,
        scale=(0.5, 0.25, 1),
        offset=-1,
        fit="crop",
        resample="bicubic",
        background=(1, 2, 3),
        scores="probabilities",
    )


def test_no_file_is_no_settings(tmp_path: Path) -> None:
    """A version without the file has no settings; an empty file has the defaults."""
    assert load(tmp_path) is None
    (tmp_path / "image.toml").write_text("")
    assert load_file(tmp_path / "image.toml") == ImageSettings()


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("hight = 224", "unknown key hight = 224: use one of input, height"),
        ("height = 0", "height = 0: give a whole number from 1"),
        ("height = 224.0", "height = 224.0: give a whole number"),
        ("height = true", "height = True: give a whole number"),
        ("width = 1000000", "width = 1000000: give a whole number from 1 to 16384"),
        ("channels = 2", "channels = 2: give 1 (grey), 3 (RGB) or 4 (RGBA)"),
        ('scale = "1/255"', "scale = '1/255': give one number, or a list"),
        ("scale = inf", "scale = inf: give one number"),
        ("scale = [1, 2]", "scale = [1, 2]: give one number"),
        ("offset = [1, 2, nan]", "offset = [1, 2, nan]: give one number"),
        ('fit = "squeeze"', "fit = 'squeeze': give one of stretch, crop, pad"),
        ('resample = "area"', "resample = 'area': give one of nearest, bilinear, bicubic, lanczos"),
        ("background = 256", "background = 256: give a grey level from 0 to 255"),
        ("background = [1, 2]", "background = [1, 2]: give a grey level"),
        ('input = ""', "input = '': give the name of an input"),
        ("scores = 3", "scores = 3: give the name of an output"),
        ("channels = 1\nscale = [1, 2, 3]", "scale = [1, 2, 3] has 3 numbers and channels is 1"),
        ("height 224", "not valid TOML"),
    ],
)
def test_what_will_not_do_is_told(tmp_path: Path, line: str, remedy: str) -> None:
    """The message names the file, the key, the value and the remedy; the server's exit code is that of a model."""
    path = tmp_path / "image.toml"
    path.write_text(line)
    with pytest.raises(ModelLoadError) as caught:
        load_file(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert remedy in caught.value.message
    assert caught.value.exit_code == ExitCode.MODEL_LOAD


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and a directory in the file's place, are errors of the model."""
    path = tmp_path / "image.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelLoadError, match="make it a readable UTF-8 file"):
        load_file(path)
    with pytest.raises(ModelLoadError, match="make it a readable UTF-8 file"):
        load_file(tmp_path)
