"""Bytes <-> messages, for any TProcessor. No sockets."""

from thriftserve.rpc.exchange import BadMessage, Begun, Exchange, Refusal, Together
from thriftserve.rpc.header import make_exchange
from thriftserve.rpc.template_cache import Again

__all__ = ["Again", "BadMessage", "Begun", "Exchange", "Refusal", "Together", "make_exchange"]
