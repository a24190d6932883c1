"""Models behind URLs: fetched once as an archive (fetch.py), or mirrored as a base path (mirror.py).

The controller runs both as agents, in processes of their own. `fetch` is for other programs as well:

    fetch("https://models.example/digits-3.tar.gz", Path("/models/digits/3"), check=check)
"""

from thriftserve.remote.fetch import fetch
from thriftserve.remote.limits import Limits, Phase, Progress

__all__ = ["Limits", "Phase", "Progress", "fetch"]
