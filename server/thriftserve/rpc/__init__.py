"""Bytes <-> messages, for any TProcessor. No sockets, and nothing of the service: the server types are built on it."""

from thriftserve.rpc.batch_processor import BatchHint, BatchProcessor, BatchRunner
from thriftserve.rpc.exchange import BadMessage, Exchange, PendingCall, Refusal
from thriftserve.rpc.header import make_exchange
from thriftserve.rpc.template_cache import CachedCall, TemplateCache

__all__ = [
    "BadMessage",
    "BatchHint",
    "BatchProcessor",
    "BatchRunner",
    "CachedCall",
    "Exchange",
    "PendingCall",
    "Refusal",
    "TemplateCache",
    "make_exchange",
]
