"""Models of several versions, each with an answer of its own, and the configuration that serves them.

written(directory)  -->  base paths below it  -->  models.config, its path
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: A version as large as those that are made of the time in nanoseconds: no double holds it.
LARGE = 1_700_000_000_123_456_789
CONFIG = """
model_config_list {{
  config {{
    name: "half" base_path: "{0}/half"
    model_version_policy {{ specific {{ versions: 1 versions: 42 versions: {1} }} }}
    version_labels {{ key: "stable" value: 42 }}
    version_labels {{ key: "canary" value: {1} }}
    version_labels {{ key: "grün" value: 1 }}
  }}
  config {{ name: "every" base_path: "{0}/every" model_version_policy {{ all {{ }} }} }}
  config {{ name: "newest" base_path: "{0}/newest" }}
}}
"""


def half_plus(path: Path, number: float) -> None:
    """Writes a model: x FLOAT [n] to y = x/2 + number."""
    import tensorflow as tf

    module = tf.Module()
    module.number = tf.Variable(number)

    def plus(x: Any) -> dict[str, Any]:
        return {"y": 0.5 * x + module.number}

    signature = tf.function(plus, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": signature})


def written(directory: Path) -> Path:
    """The configuration of "half" (versions 1, 42, LARGE), "every" (1, 2, and 3 that fails) and "newest" (1, 2)."""
    for name, versions in {"half": (1, 42, LARGE), "every": (1, 2), "newest": (1, 2)}.items():
        for place, version in enumerate(versions):
            half_plus(directory / name / str(version), 10.0 * place)
    extra = directory / "every" / "3" / "assets.extra"
    half_plus(extra.parent, 20.0)
    extra.mkdir()
    (extra / "image.toml").write_text("height = 'tall'\n", encoding="utf-8")
    config = directory / "models.config"
    config.write_text(CONFIG.format(directory, LARGE), encoding="utf-8")
    return config
