"""Bytes <-> messages, for any TProcessor. No sockets."""

from thriftserve.rpc.alike import Again
from thriftserve.rpc.exchange import BadMessage, Begun, Exchange, Refusal, Together
from thriftserve.rpc.header import make_exchange

__all__ = ["Again", "BadMessage", "Begun", "Exchange", "Refusal", "Together", "make_exchange"]
