"""Which model a path names, and what is wanted of it.

    "/v1/models/My%20Model/versions/3:predict"  -->  ModelPath("My Model", 3, None, "predict")

Keywords may be in capitals, names are URL-decoded after the path is taken apart: TensorFlow Serving does both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from urllib.parse import unquote

from thriftserve.gateway.failures import Refusal
from thriftserve_idl.ttypes import ModelSpec

_WHICH = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_WHICH + r":(?P<verb>classify|regress|predict|detect)", re.IGNORECASE | re.ASCII)
_LOOK = re.compile(_WHICH + r"(?:/(?P<verb>metadata))?", re.IGNORECASE | re.ASCII)
_MAX_VERSION = 2**63 - 1
#: Longer ones are not remembered: clients can make as many of them as they like.
_LONGEST_REMEMBERED = 500


@dataclass(frozen=True)
class ModelPath:
    """A model, one of its versions by number or label or the newest, and what is wanted.

    `verb` is "predict", "classify", "regress", "detect", "metadata" or "status".
    """

    name: str
    version: int | None = None
    label: str | None = None
    verb: str = "status"

    @cached_property
    def which(self) -> ModelPath:
        """The model and version alone, whatever is wanted of it."""
        return replace(self, verb="")

    def spec(self, signature: str | None = None) -> ModelSpec:
        """The same for a call."""
        return ModelSpec(self.name, self.version, self.label, signature)

    def not_found(self) -> Refusal:
        """What TensorFlow Serving says of a model that it does not serve."""
        if self.label is not None:
            return Refusal(f"Unrecognized servable version label: {self.label}")
        if self.verb == "status":
            which = "any versions" if self.version is None else f"version {self.version}"
            return Refusal(f"Could not find {which} of model {self.name}", 404)
        which = f"Latest({self.name})" if self.version is None else f"Specific({self.name}, {self.version})"
        return Refusal(f"Servable not found for request: {which}", 404)


def model_path(method: str, path: str) -> ModelPath:
    """What a request to /v1/… is about.

    Raises:
        Refusal: the path names no model, or the method does not belong to it.
    """
    return _remembered(method, path) if len(path) <= _LONGEST_REMEMBERED else _taken_apart(method, path)


def _taken_apart(method: str, path: str) -> ModelPath:
    found = (_CALL if method == "POST" else _LOOK).fullmatch(path) if method in ("POST", "GET", "HEAD") else None
    if found is None:
        raise Refusal(f"Malformed request: {method} {path[:1000]}")
    version = _number(found["version"])
    label = None if found["label"] is None else _decoded(found["label"], "model version label")
    return ModelPath(_decoded(found["name"], "model name"), version, label, (found["verb"] or "status").lower())


# Most requests are for a few paths: taking one apart costs some 5 us.
_remembered = lru_cache(maxsize=1000)(_taken_apart)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > 4000 or int(text) > _MAX_VERSION:
        raise Refusal(f"Failed to convert version: {text[:100]} to numeric.")
    return int(text)


def _decoded(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Refusal(f"Failed to decode {what}:{text[:1000]}") from None
