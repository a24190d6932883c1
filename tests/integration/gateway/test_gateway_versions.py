"""TensorFlow Serving's REST API where a model has several versions and labels: which answers, and what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway_served import Door, gateway
from served import Served
from versioned_models import LARGE, written

ONE = {"instances": [2.0]}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway before a server of "half" (1, 42, LARGE), "every" (1, 2, and 3, which fails) and "newest" (2)."""
    config = written(tmp_path_factory.mktemp("versions"))
    # A version that failed stays so while the tests look at it.
    flags = ("--workers", "1", "--server-type", "TBatchingServer", "--load-retry-interval-s", "3600")
    with Served("--model-config-file", str(config), *flags) as server, gateway(server.port) as made:
        yield made


def fine(*versions: int) -> dict[str, Any]:
    """What is said of versions that are available."""
    status = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": str(one), "state": "AVAILABLE", "status": status} for one in versions]}


#: Which model, version or label; what the one that answers makes of 2.0.
FOUND: list[tuple[str, float]] = [
    ("half", 21.0),
    ("half/versions/1", 1.0),
    ("half/versions/42", 11.0),
    ("half/versions/042", 11.0),
    (f"half/versions/{LARGE}", 21.0),
    ("half/labels/stable", 11.0),
    ("half/labels/canary", 21.0),
    ("half/labels/gr%C3%BCn", 1.0),
    ("half/LABELS/stable", 11.0),
    ("every", 11.0),
    ("every/versions/1", 1.0),
    ("newest", 11.0),
    ("newest/versions/2", 11.0),
]


@pytest.mark.parametrize(("which", "expected"), FOUND)
def test_the_version_that_is_named_answers(door: Door, which: str, expected: float) -> None:
    """A number, a label or nothing leads to the one version that it stands for, in both forms."""
    assert door.post(f"/v1/models/{which}:predict", ONE).json() == {"predictions": [expected]}
    assert door.post(f"/v1/models/{which}:predict", {"inputs": {"x": [2.0]}}).json() == {"outputs": [expected]}


def no_version(model: str, version: int) -> tuple[str, int, str, str]:
    """What is said of a version that is not there."""
    looked = f"Could not find version {version} of model {model}"
    return f"{model}/versions/{version}", 404, f"Servable not found for request: Specific({model}, {version})", looked


def no_label(model: str, label: str) -> tuple[str, int, str, str]:
    """What is said of a label that nobody set."""
    message = f"Unrecognized servable version label: {label}"
    return f"{model}/labels/{label}", 400, message, message


UNDECODED = "Failed to decode model version label:%ff"
TOO_LARGE = "Failed to convert version: 9223372036854775808 to numeric."
#: Which; status, what is said of a prediction and of its metadata; what of its state.
MISSING: list[tuple[str, int, str, str]] = [
    no_version("half", 2),
    no_version("half", LARGE + 1),
    no_version("newest", 1),
    no_version("nobody", 1),
    ("nobody", 404, "Servable not found for request: Latest(nobody)", "Could not find any versions of model nobody"),
    no_label("half", "beta"),
    no_label("newest", "stable"),
    no_label("nobody", "stable"),
    ("half/labels/%ff", 400, UNDECODED, UNDECODED),
    ("half/versions/9223372036854775808", 400, TOO_LARGE, TOO_LARGE),
]


@pytest.mark.parametrize(("which", "status", "message", "looked"), MISSING)
def test_versions_that_are_not_there(door: Door, which: str, status: int, message: str, looked: str) -> None:
    """Unknown versions, labels and models are told with TensorFlow Serving's texts, each method's own."""
    answers = {
        "predict": door.post(f"/v1/models/{which}:predict", ONE),
        "metadata": door.get(f"/v1/models/{which}/metadata"),
        "status": door.get(f"/v1/models/{which}"),
    }
    told = {name: (answer.status, answer.error) for name, answer in answers.items()}
    assert told == {"predict": (status, message), "metadata": (status, message), "status": (status, looked)}


@pytest.mark.parametrize(
    "path", ["half/versions/stable", "half/versions/-1", "half/labels/", "half/versions/", "half/labels/a/b"]
)
def test_paths_that_name_no_version(door: Door, path: str) -> None:
    """A version is digits, a label is one part of the path: all else is malformed."""
    assert door.get(f"/v1/models/{path}").error == f"Malformed request: GET /v1/models/{path}"
    assert door.post(f"/v1/models/{path}:predict", ONE).error == f"Malformed request: POST /v1/models/{path}:predict"


def test_states_of_several_versions(door: Door) -> None:
    """Every version's state, newest first, numbers as text; a number or label picks one."""
    assert door.get("/v1/models/half").json() == fine(LARGE, 42, 1)
    assert door.get(f"/v1/models/half/versions/{LARGE}").json() == fine(LARGE)
    assert door.get("/v1/models/half/labels/stable").json() == fine(42)
    assert door.get("/v1/models/half/labels/gr%C3%BCn").json() == fine(1)
    assert door.get("/v1/models/newest").json() == fine(2)


def test_a_version_that_failed_is_told_beside_the_others(door: Door) -> None:
    """It is in the state END with its error, answers nothing, and the newest of the others answers in its place."""
    while (told := door.get("/v1/models/every").json()["model_version_status"])[0]["state"] != "END":
        pass  # it is tried in a process of its own, while the others serve
    assert [one["version"] for one in told] == ["3", "2", "1"]
    assert told[1:] == fine(2, 1)["model_version_status"]
    assert told[0]["status"]["error_code"] == "INTERNAL" and "height = 'tall'" in told[0]["status"]["error_message"]
    assert door.get("/v1/models/every/versions/3").json()["model_version_status"] == told[:1]
    refused = door.post("/v1/models/every/versions/3:predict", ONE)
    assert (refused.status, refused.error) == (404, "Servable not found for request: Specific(every, 3)")


@pytest.mark.parametrize(
    ("which", "version"),
    [("half", LARGE), ("half/versions/1", 1), ("half/labels/stable", 42), ("every", 2), ("newest", 2)],
)
def test_metadata_says_which_version_it_is_of(door: Door, which: str, version: int) -> None:
    """The resolved version stands in it as text, and the label that led there does not."""
    told = door.get(f"/v1/models/{which}/metadata").json()
    assert told["model_spec"] == {"name": which.partition("/")[0], "signature_name": "", "version": str(version)}
    assert set(told["metadata"]["signature_def"]["signature_def"]) == {"serving_default"}


def test_other_methods_take_versions_and_labels(door: Door) -> None:
    """regress and classify by number or label name the version's own fault; the Open Inference Protocol has numbers."""
    expected = (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/predict"
    )
    for which in ("half/versions/42", "half/labels/stable"):
        answer = door.post(f"/v1/models/{which}:regress", {"examples": [{"x": 1.0}]})
        assert (answer.status, answer.error) == (400, expected)
    sent = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [2.0]}]}
    told = door.post(f"/v2/models/half/versions/{LARGE}/infer", sent).json()
    assert (told["model_version"], told["outputs"][0]["data"]) == (str(LARGE), [21.0])
    assert door.get("/v2/models/half/versions/42").json()["versions"] == ["42"]
    assert door.get("/v2/models/half/versions/7/ready").status == 404
