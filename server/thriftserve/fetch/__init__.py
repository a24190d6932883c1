"""A packed model at a URL becomes a version directory: whole, checked, or not there at all."""

from thriftserve.fetch.fetching import fetch, hold
from thriftserve.fetch.limits import Limits, Phase, Progress

__all__ = ["Limits", "Phase", "Progress", "fetch", "hold"]
