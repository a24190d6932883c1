"""Bytes <-> messages, for any TProcessor. No sockets."""

from thriftserve.rpc.exchange import BadMessage, BatchProcessor, Exchange, PendingCall, Refusal
from thriftserve.rpc.header import make_exchange
from thriftserve.rpc.template_cache import CachedCall

__all__ = ["BadMessage", "BatchProcessor", "CachedCall", "Exchange", "PendingCall", "Refusal", "make_exchange"]
