"""Connections that end by a failure: one line in the log for each, the same for every server type.

failure --tell()--> a line in the log --> whoever has the connection closes it
"""

from __future__ import annotations

import logging

from thriftserve.rpc import BadMessage
from thriftserve_client.channel import ChannelClosed, ChannelTimeout
from thriftserve_client.framing import FrameError

log = logging.getLogger(__name__)

#: What a client or its connection may do wrong (a TLS failure is an OSError): it ends that connection and nothing else.
FAILURES = (BadMessage, FrameError, ChannelTimeout, ChannelClosed, OSError)


def tell(peer: str, error: Exception) -> None:
    """Logs why a connection is closed: bad bytes as a warning, anything unforeseen with its trace."""
    if isinstance(error, (BadMessage, FrameError)):
        log.warning("%s: closed: %s", peer, error)
    elif isinstance(error, (ChannelTimeout, ChannelClosed)):
        log.info("%s: closed: %s", peer, error)
    elif isinstance(error, OSError):
        log.info("%s: broken: %s", peer, error)
    else:
        log.error("%s: closed", peer, exc_info=error)
