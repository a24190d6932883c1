"""A SavedModel with everything that can be missing: an asset, an index, two data files.

whole_version()  -->  a version's directory, made once; copy it to damage it
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from thriftserve.models.tensorflow.preload import preload

#: What the model can't be without, in no order.
PARTS = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00002",
    "variables/variables.data-00001-of-00002",
    "assets/words.txt",
)
PB, INDEX, FIRST, SECOND, ASSET = PARTS


@cache
def whole_version() -> Path:
    """A directory with PARTS, and fingerprint.pb, which is of no use."""
    preload()
    import tensorflow as tf

    scratch = Path(tempfile.mkdtemp(prefix="thriftserve-copied-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    (scratch / "words.txt").write_text("zero\none\ntwo\n")
    module = tf.Module()
    module.first, module.second = tf.Variable([1.0] * 400), tf.Variable([2.0] * 300)
    files = tf.lookup.TextFileInitializer(str(scratch / "words.txt"), tf.string, -2, tf.int64, -1)  # line, its number
    module.table = tf.lookup.StaticHashTable(files, -1)

    def number(word: Any) -> dict[str, Any]:
        found = tf.cast(module.table.lookup(word), tf.float32)
        return {"number": found + module.first[0] + module.second[0]}

    called = tf.function(number, input_signature=[tf.TensorSpec([None], tf.string, "word")])
    halves = tf.train.experimental.MaxShardSizePolicy(max_shard_size=1800)
    options = tf.saved_model.SaveOptions(experimental_sharding_callback=halves)
    tf.saved_model.save(module, str(scratch / "1"), {"serving_default": called}, options)
    return scratch / "1"


def text_version(target: Path) -> Path:
    """The same with saved_model.pbtxt in place of saved_model.pb, at `target`."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    shutil.copytree(whole_version(), target)
    message = SavedModel.FromString((target / PB).read_bytes())
    (target / PB).unlink()
    (target / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    return target
