"""A model before it is written.

vector_models, image_models  -->  Blueprint  -->  builders: a SavedModel with its extra files
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Blueprint:
    """What `builders.build` writes."""

    #: A `tf.Module` that holds everything the signatures use.
    module: Any
    #: Signature name -> `tf.function` with an input signature.
    signatures: Mapping[str, Any]
    #: Class names by class number; empty: no labels.txt is written.
    labels: Sequence[str] = ()
    #: Content of assets.extra/image.toml; empty: none is written.
    image_toml: str = ""
