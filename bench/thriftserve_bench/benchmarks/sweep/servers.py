"""The servers of a sweep, each a process of its own.

Variant  -->  our_host (the echo service) | thriftserve serve --model …  -->  ServerProcess, on its cores
"""

from __future__ import annotations

import sys

from thriftserve_bench.benchmarks.sweep.plan import SweepSettings
from thriftserve_bench.machine import running_on
from thriftserve_bench.processes import ServerProcess, clean_environment
from thriftserve_bench.records.sweep import ECHO, Setting, Variant
from thriftserve_bench.workloads.payloads import echo_frame, model_frame


def start(variant: Variant, settings: SweepSettings, cores: set[int]) -> ServerProcess:
    """Starts a server and returns once it is ready; the caller ends it, best by a `with` block.

    Raises:
        ServerFailed: it did not become ready.
    """
    numbers = []
    if variant.workers:
        numbers += ["--workers", str(variant.workers)]
    if variant.threads:
        numbers += ["--threads", str(variant.threads)]
    numbers += ["--max-message-bytes", str(settings.max_message_bytes)]
    if variant.model == ECHO:
        command = [sys.executable, "-m", "thriftserve_bench.servers.our_host", variant.server_type]
        server = ServerProcess(numbers, command=command)
    else:
        flags = ["--model", variant.model, "--port", "0", "--server-type", variant.server_type]
        environment = clean_environment(**settings.environment)
        server = ServerProcess([*flags, *numbers, *settings.serve_flags], env=environment)
    with running_on(cores):
        return server.start()


def frame_for(setting: Setting, server: ServerProcess) -> bytes:
    """The call that a point consists of.

    Raises:
        ThriftServeClientError: the model can't be asked what it takes, or does not take it.
    """
    if setting.variant.model == ECHO:
        return echo_frame(setting.payload)
    return model_frame(server.host, server.port, setting.variant.model_name, setting.payload)
