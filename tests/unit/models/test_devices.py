"""Devices: the arithmetic over workers, what each process claims, what is said of a device that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from small_models import small
from thriftserve.cores import usable_cores
from thriftserve.errors import DeviceError
from thriftserve.models import devices
from thriftserve.models.devices import SessionOptions, assign_devices, claim, visible_gpus
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.models.tensorflow.session_config import config_proto


@pytest.mark.parametrize(
    ("told", "workers", "gpus", "laid"),
    [
        ("cpu", 3, 2, ("cpu", "cpu", "cpu")),
        ("auto", 2, 0, ("cpu", "cpu")),
        ("auto", 3, 2, ("gpu:0", "gpu:1", "gpu:0")),
        ("gpu:1", 2, 2, ("gpu:1", "gpu:1")),
        ("gpu:0,gpu:1", 5, 4, ("gpu:0", "gpu:1", "gpu:0", "gpu:1", "gpu:0")),
        (" gpu:3 , gpu:0", 2, 4, ("gpu:3", "gpu:0")),
        ("gpu:0,gpu:0,gpu:1", 3, 2, ("gpu:0", "gpu:0", "gpu:1")),
    ],
)
def test_workers_are_laid_round_robin(told: str, workers: int, gpus: int, laid: tuple[str, ...]) -> None:
    """Each worker gets the next device of the list; auto is every GPU, else the CPU."""
    assert assign_devices(told, workers, gpus) == laid


@pytest.mark.parametrize(
    ("told", "gpus", "said"),
    [
        ("gpu:2", 2, "no gpu:2 here; there is cpu, gpu:0, gpu:1"),
        ("gpu:0,gpu:7", 1, "no gpu:7 here; there is cpu, gpu:0"),
        ("gpu:0", 0, "no GPU was found"),
        ("tpu:0", 1, "'tpu:0' is no device; write cpu, auto or"),
        ("", 1, "is no device"),
        ("cpu,gpu:0", 1, "'cpu' is no device"),
    ],
)
def test_device_that_is_not_there(told: str, gpus: int, said: str) -> None:
    """The message names what was asked for and what there is."""
    with pytest.raises(DeviceError, match=said) as caught:
        assign_devices(told, 1, gpus)
    assert repr(told) in caught.value.message


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ("0,1", ("0", "1")),
        ("3", ("3",)),
        ("", ()),
        ("-1", ()),
        ("2,-1,3", ("2",)),
        ("GPU-ab, MIG-cd", ("GPU-ab", "MIG-cd")),
    ],
)
def test_gpus_that_the_environment_leaves(told: str, names: tuple[str, ...]) -> None:
    """CUDA_VISIBLE_DEVICES says which GPUs there are, as CUDA reads it."""
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": told}) == names


def test_gpus_are_counted_by_the_drivers_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that variable the driver's list is counted, and where there is none, the device nodes."""
    (tmp_path / "dev").mkdir()
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / node).touch()
    monkeypatch.setattr(devices, "DEV", tmp_path / "dev")
    monkeypatch.setattr(devices, "PROC_GPUS", tmp_path / "gpus")
    assert visible_gpus({}) == ("0", "1")
    for bus in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
    assert visible_gpus({}) == ("0", "1", "2")


def test_claim_leaves_one_gpu() -> None:
    """A worker sees its own GPU only, by the name that the environment gave it, and lets memory grow."""
    environment = {"CUDA_VISIBLE_DEVICES": "4,GPU-ab"}
    claim("gpu:1", environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-ab"
    assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_claim_of_the_cpu_hides_every_gpu() -> None:
    """A worker on the CPU sees no GPU, and the user's own log level stays."""
    environment = {"CUDA_VISIBLE_DEVICES": "0", "TF_CPP_MIN_LOG_LEVEL": "0"}
    claim("cpu", environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "0"}


def test_claim_of_a_missing_gpu() -> None:
    """A worker whose GPU is gone by now says so."""
    with pytest.raises(DeviceError, match="no gpu:1 here"):
        claim("gpu:1", {"CUDA_VISIBLE_DEVICES": "0"})


CLAIMING = """
import json, os, sys
from thriftserve.models import devices
from thriftserve.models.tensorflow.preload import preload

preload()
laid = devices.assign_devices("auto", 3)
for device in laid:
    if os.fork() == 0:
        devices.claim(device)
        print(json.dumps([device, os.environ["CUDA_VISIBLE_DEVICES"]]), flush=True)
        os._exit(0)
    os.wait()
"""


def test_forked_workers_claim_their_own() -> None:
    """Children of one parent that has TensorFlow imported each end up with the GPU laid out for them."""
    run = subprocess.run(
        [sys.executable, "-c", CLAIMING],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "5,6"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [json.loads(line) for line in run.stdout.splitlines()] == [["gpu:0", "5"], ["gpu:1", "6"], ["gpu:0", "5"]]


OPENING = """
import sys
from pathlib import Path
from thriftserve.errors import DeviceError
from thriftserve.models import devices
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import SavedModelSession

devices.claim("gpu:0")
try:
    SavedModelSession.open(Path(sys.argv[1]), devices.SessionOptions("gpu:0"))
except DeviceError as error:
    print(error.message)
"""


def test_gpu_that_tensorflow_does_not_see() -> None:
    """A GPU that was claimed and that TensorFlow can't use is one clear error, not a model run on the CPU."""
    run = subprocess.run(
        [sys.executable, "-c", OPENING, str(small("half_plus_two") / "1")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "99"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "sees no GPU where gpu:0 was claimed (CUDA_VISIBLE_DEVICES=99)" in run.stdout


def test_cores_are_divided_among_workers() -> None:
    """Each worker's operations get its share of the cores, at least one, unless a number is given."""
    assert SessionOptions.divided("cpu", 2, cores=8).intra_op_threads == 4
    assert SessionOptions.divided("cpu", 3, cores=2).intra_op_threads == 1
    assert SessionOptions.divided("cpu", 3, cores=2, intra_op_threads=5).intra_op_threads == 5
    assert SessionOptions.divided("cpu", 1, cores=2).inter_op_threads is None
    assert SessionOptions.divided("cpu", 1).intra_op_threads == usable_cores()


def test_options_reach_tensorflow() -> None:
    """Threads, memory limit and growth stand in the session's configuration; the CPU alone has no GPU at all."""
    limited = config_proto(SessionOptions("gpu:0", 3, 2, 512))
    assert (limited.intra_op_parallelism_threads, limited.inter_op_parallelism_threads) == (3, 2)
    assert list(limited.gpu_options.experimental.virtual_devices[0].memory_limit_mb) == [512]
    assert not limited.gpu_options.allow_growth
    assert config_proto(SessionOptions("gpu:0")).gpu_options.allow_growth
    assert config_proto(SessionOptions("cpu")).device_count["GPU"] == 0


def test_export_that_names_a_gpu_runs_on_the_cpu(tmp_path: Path) -> None:
    """A graph whose export pinned it to a GPU that is not there is served where it can run."""
    import numpy as np
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        with tf.device("/GPU:3"):
            y = x * 2.0
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, clear_devices=False)
        builder.save()
    served = SavedModelSession.open(tmp_path / "1", SessionOptions())
    assert served.run("serving_default", {"x": np.ones(1, np.float32)}, ["y"])["y"].tolist() == [2.0]
    served.close()
