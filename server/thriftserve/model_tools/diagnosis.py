"""TensorFlow's own words about a model that it can't load, and what they mean for who has it.

"Op type not registered 'Foo' in binary …"  --told-->  "it uses the operation 'Foo', which … does not have: …"
"""

from __future__ import annotations

import re

_MEANINGS = (
    (
        re.compile(r"Op type not registered '(\w+)'"),
        "it uses the operation {0!r}, which this TensorFlow does not have: it is of a library of its own "
        "(as tensorflow-text has), or of a newer TensorFlow",
    ),
    (
        re.compile(r"no signature in it can be served"),
        "it has no signature to serve: save it with tf.saved_model.save(…, signatures=…) or Keras' model.export(path)",
    ),
    (
        re.compile(r"(?i)data.?loss|checksum|corrupted|out of range.*read|truncated|Unable to open table"),
        "its variables are damaged: copy it again, and compare sums",
    ),
    (
        re.compile(r"NodeDef (mentions attr|expected inputs)|not in Op<"),
        "it was written by another TensorFlow, newer than this one: save it with this one, or serve with that",
    ),
    (
        re.compile(r"(?i)resource ?exhausted|OOM when|bad_alloc|can't allocate"),
        "it needs more memory than there is",
    ),
)


def told(message: str) -> str:
    """A message with what it means before it, where that is known."""
    for pattern, meaning in _MEANINGS:
        found = pattern.search(message)
        if found:
            return f"{meaning.format(*found.groups())} ({message})"
    return message
