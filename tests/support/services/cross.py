"""The service that has every type of Thrift, alone or beside others on one port; only its hosts import it.

arguments --> CrossHandler --> answer | exception
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from thrift.Thrift import TProcessor
from thrift.TMultiplexedProcessor import TMultiplexedProcessor

from services.gen.calculator import Calculator, Greeter
from services.gen.cross import Cross
from services.gen.cross.ttypes import Failure, Insanity, Number, OtherFailure, Things
from services.handlers import CalculatorHandler, GreeterHandler
from thriftserve.servers import WorkerContext


class CrossHandler:
    """Implements `Cross`; `__getattr__` stands for every method that answers with its argument."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if not name.startswith("test"):
            raise AttributeError(name)
        return lambda thing: thing

    def testVoid(self) -> None:
        pass

    def testMapMap(self, hello: int) -> dict[int, dict[int, int]]:
        up = range(1, hello + 1)
        return {hello: {n: n for n in up}, -hello: {-n: -n for n in up}}

    def testInsanity(self, argument: Insanity) -> dict[int, dict[Number, Insanity]]:
        return {1: {Number.TWO: argument, Number.THREE: argument}, 2: {Number.SIX: Insanity()}}

    def testMulti(self, small: int, middle: int, large: int, texts: dict[int, str], number: int, user: int) -> Things:
        return Things("Hello2", small, middle, large)

    def testException(self, arg: str) -> None:
        if arg == "Xception":
            raise Failure(1001, arg)
        if arg == "TException":
            raise ValueError(arg)

    def testMultiException(self, arg0: str, arg1: str) -> Things:
        if arg0 == "Xception":
            raise Failure(1001, "This is an Xception")
        if arg0 == "Xception2":
            raise OtherFailure(2002, Things("This is an Xception2"))
        return Things(arg1)

    def testOneway(self, seconds: int) -> None:
        time.sleep(seconds)


def cross(context: WorkerContext) -> TProcessor:
    return Cross.Processor(CrossHandler())


def multiplexed(context: WorkerContext) -> TProcessor:
    """Three services on one port, told apart by name."""
    processor = TMultiplexedProcessor()
    processor.registerProcessor("calculator", Calculator.Processor(CalculatorHandler()))
    processor.registerProcessor("greeter", Greeter.Processor(GreeterHandler()))
    processor.registerProcessor("cross", cross(context))
    return processor
