"""Bytes <-> messages, for any TProcessor. No sockets."""

from thriftserve.rpc.exchange import BadMessage, Exchange, Refusal

__all__ = ["BadMessage", "Exchange", "Refusal"]
