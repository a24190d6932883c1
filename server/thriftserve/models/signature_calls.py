"""The calls of a session, each made when it is first wanted.

(signature, outputs)  -->  SignatureCalls  -->  SignatureCall: inputs in, outputs out

Making one has TensorFlow cut the graph to its part and rewrite that for speed: 0.05 to 0.5 s, once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from thriftserve.models.meta_graph import Endpoint
from thriftserve.models.signature_call import SignatureCall, prepare

#: Sets of outputs that get a call of their own. Callers choose the sets, so there must be a limit; past it, all
#: outputs are run and the wanted ones picked.
MAX_CALLS = 64

#: A signature's name and the outputs wanted.
Key = tuple[str, tuple[str, ...]]


class SignatureCalls:
    """Calls into one session by the endpoints given. Thread-safe.

    Args:
        session: an open `tf.compat.v1.Session`.
        endpoints: by the signatures' names.
        in_callers_thread: False: operations run in the session's inter-op pool.
        most: sets of outputs that get a call of their own, where that is to be fewer than MAX_CALLS.
    """

    def __init__(
        self, session: Any, endpoints: Mapping[str, Endpoint], *, in_callers_thread: bool, most: int | None = None
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._in_callers_thread = in_callers_thread
        self._most = MAX_CALLS if most is None else min(most, MAX_CALLS)
        self._making = threading.Lock()
        #: What was made so far; looked into first, for it costs no call.
        self.known: dict[Key, SignatureCall] = {}

    def make(self, key: Key) -> SignatureCall:
        """The call for a signature and the outputs wanted of it."""
        signature, outputs = key
        endpoint = self._endpoints[signature]
        everything = (signature, tuple(endpoint.fetches))
        if len(self.known) >= self._most and key != everything:
            whole = self.known.get(everything) or self.make(everything)
            return lambda inputs: {name: value for name, value in whole(inputs).items() if name in outputs}
        with self._making:
            call = self.known.get(key)
            if call is None:
                call = prepare(self._session, endpoint, outputs, in_callers_thread=self._in_callers_thread)
                self.known[key] = call
        return call
