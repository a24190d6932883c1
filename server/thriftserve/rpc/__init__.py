"""Bytes <-> messages, for any TProcessor. No sockets."""

from thriftserve.rpc.exchange import BadMessage, Exchange, Refusal
from thriftserve.rpc.header import make_exchange

__all__ = ["BadMessage", "Exchange", "Refusal", "make_exchange"]
