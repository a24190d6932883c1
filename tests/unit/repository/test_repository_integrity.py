"""Whether a version is whole: damage of every kind, and slow copies in every order."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest

import exports_v1
from copied_models import ASSET, FIRST, INDEX, PARTS, PB, SECOND, compressed_table, text_version, whole_version
from small_models import small
from thriftserve.files import CorruptFile
from thriftserve.repository import checkpoint_index, integrity, saved_model_file
from thriftserve.repository.versions import ModelConfig
from thriftserve.repository.watcher import Watcher


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A copy of the whole version, to damage."""
    return Path(shutil.copytree(whole_version(), tmp_path / "1"))


def fault(path: Path) -> str | None:
    """What the version lacks."""
    return integrity.find_fault(path, integrity.scan(path))


def cut(path: Path, name: str, size: int | None = None) -> None:
    """Leaves the first half of a file, or so many bytes."""
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2 if size is None else size])


def test_whole_models_are_whole(tmp_path: Path) -> None:
    """What TensorFlow 1 and 2 write, as bytes or as text, with and without variables and assets."""
    assert fault(whole_version()) is None
    assert fault(text_version(tmp_path / "text")) is None
    assert fault(exports_v1.write(tmp_path / "v1")) is None
    for kind in ("half_plus_two", "text_classifier", "image_classifier"):
        assert fault(small(kind) / "1") is None


def test_what_a_model_says_of_itself() -> None:
    """The needs are read without TensorFlow: the asset, the tensors; the index tells each data file's very length."""
    whole = whole_version()
    needs = saved_model_file.list_needs(saved_model_file.read(whole / PB))
    index = checkpoint_index.read(memoryview((whole / INDEX).read_bytes()))
    assert (needs.assets, needs.checkpoint) == (("words.txt",), True)
    assert needs.tensors == index.keys
    assert "first/.ATTRIBUTES/VARIABLE_VALUE" in index.keys
    assert index.needed == {number: (whole / PARTS[2 + number]).stat().st_size for number in (0, 1)}


def other_model(path: Path) -> None:
    """Puts another model's graph beside these variables."""
    shutil.copy(small("half_plus_two") / "1" / PB, path / PB)


def bare_graph(path: Path) -> None:
    """Puts a graph without a SavedModel around it, as a frozen graph is written."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel.FromString((path / PB).read_bytes())
    (path / PB).write_bytes(message.meta_graphs[0].graph_def.SerializeToString())


def full_disk(path: Path) -> None:
    """Leaves every file without a byte."""
    for name in PARTS:
        cut(path, name, 0)


def link_to_nothing(path: Path) -> None:
    """Makes the asset a link whose target is gone."""
    (path / ASSET).unlink()
    (path / ASSET).symlink_to(path / "gone")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: (path / PB).unlink(), "saved_model.pb is missing"),
        (lambda path: cut(path, PB), "saved_model.pb is damaged: it is cut short, or no SavedModel"),
        (lambda path: cut(path, PB, 0), "saved_model.pb is damaged: it has no meta graph"),
        (lambda path: (path / PB).write_text("<html>404</html>"), "saved_model.pb is damaged: "),
        (bare_graph, "saved_model.pb is damaged: it is no SavedModel: it has a field 1"),
        (other_model, "variables/variables.index has no 'half/.ATTRIBUTES/VARIABLE_VALUE': it is not of this"),
        (lambda path: (path / INDEX).unlink(), "variables/variables.index is missing"),
        (lambda path: shutil.rmtree(path / "variables"), "variables/variables.index is missing"),
        (lambda path: cut(path, INDEX), "variables/variables.index is damaged: its"),
        (lambda path: (path / FIRST).unlink(), "variables/variables.data-00000-of-00002 is missing"),
        (lambda path: (path / SECOND).unlink(), "variables/variables.data-00001-of-00002 is missing"),
        (lambda path: cut(path, SECOND), "variables/variables.data-00001-of-00002 has"),
        (lambda path: cut(path, FIRST, (path / FIRST).stat().st_size - 1), "data-00000-of-00002 has"),
        (lambda path: (path / ASSET).unlink(), "assets/words.txt is missing"),
        (link_to_nothing, "assets/words.txt is missing"),
        (lambda path: (path / "variables" / ".variables.index.Ab3dEf").touch(), "is a copy that is not done"),
        (lambda path: (path / "saved_model.pb.part").touch(), "saved_model.pb.part is a copy that is not done"),
        (full_disk, "saved_model.pb is damaged"),
    ],
)
def test_damage_is_named(version: Path, damage: Callable[[Path], object], told: str) -> None:
    """Each kind of damage is seen, by the file's name, and a watcher never wants the version."""
    damage(version)
    assert told in (fault(version) or "")
    found = Watcher([ModelConfig("m", "tensorflow", str(version.parent))]).poll(settled=True).models["m"]
    assert found.wanted == ()
    assert told in found.problems[0]


@pytest.mark.parametrize("name", [PB, INDEX, FIRST, SECOND])
def test_no_cut_is_missed(version: Path, name: str) -> None:
    """A file that ends early is seen wherever it ends."""
    content = (version / name).read_bytes()
    step = max(1, len(content) // 200)
    for size in (*range(0, len(content), step), len(content) - 1):
        (version / name).write_bytes(content[:size])
        assert fault(version) is not None, size
    (version / name).write_bytes(content)
    assert fault(version) is None


def test_no_cut_of_a_text_is_missed(tmp_path: Path) -> None:
    """The same of saved_model.pbtxt, and of the asset that it names."""
    path = text_version(tmp_path / "1")
    whole = (path / "saved_model.pbtxt").read_text()
    for size in range(0, len(whole) - 2, len(whole) // 12):
        (path / "saved_model.pbtxt").write_text(whole[:size])
        assert (fault(path) or "").startswith("saved_model.pbtxt is damaged"), size
    (path / "saved_model.pbtxt").write_text(whole)
    (path / ASSET).unlink()
    assert fault(path) == "assets/words.txt is missing"


@pytest.mark.parametrize("name", ["words.tmp", "vocab.part", ".hidden", ".words.txt.Ab3dEf", "empty.txt"])
def test_assets_may_have_any_name(tmp_path: Path, name: str) -> None:
    """What saved_model.pb names is no leftover, whatever its name, and may be empty; the same file elsewhere is one."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self, asset: Path) -> None:
            self.words = tf.saved_model.Asset(str(asset))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x + tf.cast(tf.strings.length(tf.io.read_file(self.words.asset_path)), tf.float32)}

    asset = tmp_path / name
    asset.write_bytes(b"")
    model = Model(asset)
    tf.saved_model.save(model, str(tmp_path / "1"), signatures=model.serve)
    assert (tmp_path / "1" / "assets" / name).stat().st_size == 0
    assert fault(tmp_path / "1") is None
    if name != "empty.txt" and not name.startswith(".hidden"):
        (tmp_path / "1" / "assets.extra").mkdir()
        (tmp_path / "1" / "assets.extra" / name).touch()
        assert fault(tmp_path / "1") == f"assets.extra/{name} is a copy that is not done"


def test_an_empty_asset_is_waited_for(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher wants a version with an empty asset once nothing has been written to that for ten seconds."""
    cut(version, ASSET, 0)
    watcher = Watcher([ModelConfig("m", "tensorflow", str(version.parent))])
    polls = [watcher.poll().models["m"] for _ in range(3)]
    assert [each.wanted for each in polls] == [()] * 3
    assert "assets/words.txt is empty: it is waited for" in str([each.problems for each in polls])
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 11_000_000_000)
    assert len(watcher.poll().models["m"].wanted) == 1
    cut(version, ASSET, 0)
    monkeypatch.undo()
    assert (
        len(Watcher([ModelConfig("m", "tensorflow", str(version.parent))]).poll(settled=True).models["m"].wanted) == 1
    )


def test_a_compressed_index(version: Path) -> None:
    """An index in Snappy blocks, as published models have it, is read as TensorFlow reads it."""
    import tensorflow as tf

    path = version / INDEX
    plain = checkpoint_index.read(memoryview(path.read_bytes()))
    path.write_bytes(compressed_table(path.read_bytes()))
    assert dict(tf.train.list_variables(str(version / "variables" / "variables")))
    assert checkpoint_index.read(memoryview(path.read_bytes())) == plain
    assert fault(version) is None
    for block in (b"\x06\x10hello", b"\xff\xff\xff\xff\x0f\x00", b"\x08\x01\x05", b"\x08\x10", b"\x04\xf0"):
        with pytest.raises(CorruptFile, match="block"):
            checkpoint_index.decompressed(memoryview(block), 1)


@pytest.mark.parametrize("content", [b"", b"a" * 70_000, bytes(range(256)) * 300, b"abcdabcdXabcd" * 9], ids=len)
def test_snappy(content: bytes) -> None:
    """What another implementation compresses comes back: long literals, copies far and near, and overlapping ones."""
    block = memoryview(bytes(cramjam.snappy.compress_raw(content)))
    assert bytes(checkpoint_index.decompressed(block, 1)) == content


def test_damaged_bytes_end_in_one_error(version: Path) -> None:
    """Whatever stands in an index, reading it ends, with Damaged or without."""
    content = (version / INDEX).read_bytes()
    for at in range(len(content)):
        broken = bytearray(content)
        broken[at] ^= 0xFF
        try:
            checkpoint_index.read(memoryview(broken))
        except CorruptFile:
            continue


@pytest.mark.parametrize("first", PARTS)
def test_slow_copy_in_every_order(tmp_path: Path, first: str) -> None:
    """A version that arrives file by file is never wanted before it is whole, whatever the order.

    Each file appears half, and is looked at there; the copy stops for several looks between files, and in the
    middle of all those whose length can be told.
    """
    whole = {name: (whole_version() / name).read_bytes() for name in PARTS}
    for number, rest in enumerate(itertools.permutations(set(PARTS) - {first})):
        base = tmp_path / str(number)
        version = base / "7"
        for folder in ("variables", "assets"):
            (version / folder).mkdir(parents=True)
        watcher = Watcher([ModelConfig("m", "tensorflow", str(base))])
        for name in (first, *rest):
            assert watcher.poll().models["m"].wanted == ()
            (version / name).write_bytes(whole[name][: len(whole[name]) // 2])
            for _ in range(1 if name == ASSET else 2):
                assert watcher.poll().models["m"].wanted == (), name
            (version / name).write_bytes(whole[name])
        assert watcher.poll().models["m"].wanted == ()
        assert [one.path for one in watcher.poll().models["m"].appeared] == [version]
