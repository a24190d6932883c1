"""Predict with encoded images: decoded to what the input wants, or refused by name before the session sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encoded_images import encoded, photo, plain
from numpy_models import NumpySession, arrays, one_function, refused, serve, signature
from thriftserve.repository.image_settings import ImageSettings
from thriftserve_idl.ttypes import DataType, ErrorCode

FLOAT = DataType.FLOAT


def image_model(shape: tuple[int | None, ...], dtype: DataType = FLOAT) -> NumpySession:
    """The model image -> the same image, whatever its shape."""
    made = signature({"image": (dtype, shape)}, {"same": (dtype, shape)})
    return one_function(made, lambda inputs: {"same": inputs["image"]})


def images(*data: bytes) -> dict[str, Any]:
    return {"image": np.array(data, dtype=object)}


@pytest.mark.parametrize("dtype", [DataType.FLOAT, DataType.UINT8, DataType.HALF, DataType.INT32, DataType.DOUBLE])
def test_encoded_images_become_the_input(dtype: DataType) -> None:
    """A STRING tensor for an image input is decoded to the signature's size and dtype, one row an image."""
    session = image_model((None, 6, 4, 3), dtype)
    response = serve(session).predict(images(plain(30, 20), encoded(photo(64, 48), "JPEG")))
    same = arrays(response)["same"]
    assert same.shape == (2, 6, 4, 3)
    assert same[0, 0, 0].tolist() == [255, 0, 0]
    assert response.timing.batch_size == 2


def test_image_settings_are_used() -> None:
    """Size, channels and scale come from the model's settings where its signature leaves them free."""
    settings = ImageSettings(input="image", height=5, width=7, channels=1, scale=1 / 255)
    same = arrays(serve(image_model((None, None, None, None)), image=settings).predict(images(plain())))["same"]
    assert same.shape == (1, 5, 7, 1)
    assert same[0, 0, 0, 0] == pytest.approx(76 / 255)


def test_free_sizes_keep_the_images_own() -> None:
    """Without any size set, an image keeps its own, and several must have one size."""
    session = image_model((None, None, None, 3))
    server = serve(session)
    assert arrays(server.predict(images(plain(9, 5))))["same"].shape == (1, 5, 9, 3)
    assert arrays(server.predict(images(plain(9, 5), plain(9, 5))))["same"].shape == (2, 5, 9, 3)
    runs = len(session.runs)
    call = lambda: server.predict(images(plain(9, 5), plain(4, 4)))  # noqa: E731  # one line below
    refused(call, ErrorCode.INVALID_ARGUMENT, "input 'image'", "different sizes (4x4, 9x5)", "send them separately")
    assert len(session.runs) == runs


def test_an_input_without_batch_takes_one_image() -> None:
    """[H, W, C] takes one image, as a scalar or a list of one, and is a batch of one."""
    server = serve(image_model((None, None, 3)))
    for sent in (images(plain(9, 5)), {"image": plain(9, 5)}):
        response = server.predict(sent)
        assert arrays(response)["same"].shape == (5, 9, 3)
        assert response.timing.batch_size == 1


@pytest.mark.parametrize(
    ("shape", "sent", "words"),
    [
        ((1, 4, 4, 3), images(plain(), plain()), ["input 'image' takes 1 image(s) per run: 2 were sent"]),
        ((2, 4, 4, 3), images(plain()), ["input 'image' takes 2 image(s) per run: 1 were sent"]),
        ((4, 4, 3), images(plain(), plain()), ["takes 1 image(s) per run: 2 were sent"]),
        ((None, 4, 4, 3), images(), ["input 'image' has no image"]),
        ((None, 4, 4, 3), images(plain(), b"junk"), ["image 1 (4 bytes, beginning b'junk')"]),
        ((None, 4, 4, 3), images(plain(), b"<svg/>"), ["image 1: an SVG drawing can't be read; render it to PNG"]),
        ((None, 4, 4, 3), {"image": np.array([[plain()]], object)}, ["STRING of shape [1, 1]", "rank 1"]),
        ((None, 4, 4, 3), images(plain(2000, 1000)), ["image 0 has 2000x1000", "at most 1000000"]),
        ((None, None, None, 3), images(*[plain(900, 1000)] * 2), ["images 0 to 1 of 2 have 1800000 pixels", "1000000"]),
    ],
)
def test_wrong_images_are_named(shape: tuple[int | None, ...], sent: dict[str, Any], words: list[str]) -> None:
    """Count, place, size and shape of what was sent are told; the session never sees it."""
    session = image_model(shape)
    refused(lambda: serve(session).predict(sent), ErrorCode.INVALID_ARGUMENT, *words)
    assert session.runs == []


@pytest.mark.parametrize("shape", [(None, 3), (None, 4, 4, 2), (None, 4, 4, 3, 3), (3,)])
def test_other_inputs_take_no_images(shape: tuple[int | None, ...]) -> None:
    """Encoded images for an input of no image's shape are a wrong dtype, and images are not offered."""
    call = lambda: serve(image_model(shape)).predict(images(plain()))  # noqa: E731  # one line below
    error = refused(call, ErrorCode.INVALID_ARGUMENT, "'image' has dtype STRING: expected FLOAT")
    assert "encoded" not in error.message


def test_prepare_makes_no_difference_but_time() -> None:
    """After prepare, requests are answered as before it."""
    server = serve(image_model((None, 6, 4, 3)))
    server.handler.prepare()
    assert arrays(server.predict(images(plain())))["same"].shape == (1, 6, 4, 3)
