"""Images in, labels or boxes out: the server's own classify and detect over HTTP.

    images --classify--> {"results": [[["label", 0.93], …], …]}           the form of TensorFlow Serving's classify
    images --detect-->   {"results": [{"width", "height", "detections": [{"label", "score", "class_id", "box"}]}]}

A box is [y_min, x_min, y_max, x_max] in fractions of height and width, from the upper left corner.
"""

from __future__ import annotations

from typing import Any

from thriftserve.gateway.backends import Backends
from thriftserve.gateway.exchange import Exchange, Reply
from thriftserve.gateway.failures import Refusal
from thriftserve.gateway.images_in import Images
from thriftserve.gateway.json_answers import number
from thriftserve.gateway.paths import ModelPath
from thriftserve_client.errors import NotFoundError
from thriftserve_client.results import Detection, ImageDetections


class ImageApi:
    """The endpoints that take encoded images."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def classify(self, exchange: Exchange, path: ModelPath, found: Images) -> Reply:
        """The best classes of each image."""
        try:
            answer = await self._backends.classify(exchange, path, found.signature, found.images, found.whole("top_k"))
        except NotFoundError as error:
            raise unknown(path, error) from None
        return Reply.of({"results": [[[one.label, number(one.score)] for one in image] for image in answer]})

    async def detect(self, exchange: Exchange, path: ModelPath, found: Images) -> Reply:
        """The objects in each image."""
        try:
            answer = await self._backends.detect(
                exchange, path, found.signature, found.images, found.number("min_score"), found.whole("max_detections")
            )
        except NotFoundError as error:
            raise unknown(path, error) from None
        return Reply.of({"results": [_detections(image) for image in answer]})


def unknown(path: ModelPath, error: NotFoundError) -> NotFoundError | Refusal:
    """The server says which it does not know: a model or version, or a signature."""
    return error if "signature" in error.message else path.not_found()


def _detections(image: ImageDetections) -> dict[str, Any]:
    return {"width": image.width, "height": image.height, "detections": [_detection(one) for one in image]}


def _detection(one: Detection) -> dict[str, Any]:
    box = [number(edge) for edge in (one.y_min, one.x_min, one.y_max, one.x_max)]
    return {"label": one.label, "score": number(one.score), "class_id": one.class_id, "box": box}
