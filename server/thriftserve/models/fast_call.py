"""The one file that touches TensorFlow's private session API.

    (session, feeds, fetches)  -->  Call  -->  Call(*arrays in the order of feeds) = values in the order of fetches

`BaseSession._make_callable_from_options` skips what `Session.run` does in Python for every call
(about 160 us of 165). Where a TensorFlow lacks it, `Session.run` stands in: slower, same answers.

A call runs its operations in the caller's own thread unless the model is to have a pool: handing a
tiny graph to the pool and waiting for it costs five times what running it does (24 us against 4.4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from thriftserve.errors import InvalidArgument

#: Arrays in, values out; a value of rank 0 comes as a numpy scalar or as bytes.
Call = Callable[..., list[Any]]
#: RunOptions.inter_op_thread_pool: "run in the thread that calls".
CALLERS_THREAD = -1

log = logging.getLogger(__name__)


def make_call(session: Any, feeds: Sequence[str], fetches: Sequence[str], *, in_callers_thread: bool = True) -> Call:
    """Makes a callable that runs part of a session's graph; it is thread-safe.

    Args:
        session: an open `tf.compat.v1.Session`.
        feeds: tensor names ("x:0"), each once.
        fetches: tensor names, none of them in `feeds`.
        in_callers_thread: False: operations run in the session's inter-op pool.
    """
    from tensorflow.core.protobuf import config_pb2

    options = config_pb2.RunOptions(inter_op_thread_pool=CALLERS_THREAD if in_callers_thread else 0)
    make = getattr(session, "_make_callable_from_options", None)
    if make is None:
        log.info("this TensorFlow has no fast session calls: Session.run stands in, about 0.2 ms slower each")
        return _public_call(session, tuple(feeds), list(fetches), options)
    call: Call = make(config_pb2.CallableOptions(feed=feeds, fetch=fetches, run_options=options))
    return call


def _public_call(session: Any, feeds: tuple[str, ...], fetches: list[str], options: Any) -> Call:
    def call(*arrays: Any) -> list[Any]:
        try:
            values: list[Any] = session.run(fetches, dict(zip(feeds, arrays, strict=True)), options=options)
        except (TypeError, ValueError) as error:
            # Session.run looks at what is fed before TensorFlow does, and says so in Python's own terms.
            raise InvalidArgument(f"the model refused the inputs: {error}") from error
        return values

    return call
