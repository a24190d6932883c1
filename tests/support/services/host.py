"""A process that hosts a service of the tests, as `hosting.Hosted` starts it.

argument (JSON: service, settings, …) --> serve() --> one ready line on stdout, the log on stderr
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from collections.abc import Callable
from typing import Any

from thrift.Thrift import TProcessor

from services.gen.calculator import Calculator
from services.gen.calculator.ttypes import Busy
from services.handlers import CalculatorHandler
from thriftserve.errors import ModelLoadError, StartError
from thriftserve.servers import HostSettings, WorkerContext, serve

Factory = Callable[[WorkerContext], TProcessor]


def calculator(context: WorkerContext) -> TProcessor:
    return Calculator.Processor(CalculatorHandler())


def broken(context: WorkerContext) -> TProcessor:
    """A service that can't be made."""
    raise ModelLoadError("the service is broken on purpose")


def factory_of(service: str) -> Factory:
    """What makes a service; its modules are there before the first fork, those of the others never."""
    if service in ("cross", "multiplexed"):
        from services import cross

        return getattr(cross, service)  # type: ignore[no-any-return]  # by its name
    return {"calculator": calculator, "broken": broken}[service]


def busy(method: str, reason: str) -> Any:
    """Refuses `total` with its declared exception; other methods have none."""
    return Calculator.total_result(busy=Busy(reason)) if method == "total" else None


def main() -> int:
    """Hosts what the argument says."""
    told = json.loads(sys.argv[1])
    logging.basicConfig(level="INFO", format="%(process)d %(levelname)s %(message)s")
    soft = told["open_files"] or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        return serve(
            factory_of(told["service"]),
            HostSettings(**told["settings"]),
            refusal=busy if told["refuses_with_busy"] else None,
            on_ready=lambda line: print(line, flush=True),
        )
    except StartError as error:
        logging.getLogger("host").critical("%s", error.message)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
