"""A packed model at a URL becomes a version directory: whole, checked, or not there at all."""

from thriftserve.remote.download import Limits, Phase, Progress
from thriftserve.remote.fetch import check_request, fetch

__all__ = ["Limits", "Phase", "Progress", "check_request", "fetch"]
