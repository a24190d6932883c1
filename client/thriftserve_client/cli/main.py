"""thriftserve-client: one call to a server from the command line.

argv + environment --flags--> Namespace --commands--> Report --> stdout, as tables or JSON
errors --> stderr, one line, and an exit code
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from enum import IntEnum

from thriftserve_client.address import SslOptions
from thriftserve_client.cli.commands import COMMANDS, CONTROL_COMMANDS, models_report
from thriftserve_client.cli.flags import UsageError, parse
from thriftserve_client.cli.tables import Report
from thriftserve_client.cli.watch import follow
from thriftserve_client.client import Client
from thriftserve_client.control import Control
from thriftserve_client.errors import (
    CallTimeout,
    ConnectionFailed,
    ProtocolMismatch,
    ServerError,
    ThriftServeClientError,
    UnauthenticatedError,
    UnimplementedError,
)

#: Seconds between two calls of `status --watch`.
_WATCH_S = 0.5


class ExitCode(IntEnum):
    """How the command ends."""

    OK = 0
    #: The server replied with an error, or not as a thriftserve server does.
    SERVER = 1
    #: The command line, an input or a file is wrong; at most metadata was requested from the server.
    USAGE = 2
    CONNECTION = 3
    TIMEOUT = 4
    #: Ctrl-C: 128 + SIGINT.
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return an `ExitCode`. `--help` and wrong flags raise SystemExit, as argparse does."""
    try:
        return _run(parse(argv))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has ended. Python flushes stdout at exit, to /dev/null now.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def _run(arguments: Namespace) -> int:
    try:
        if arguments.command in CONTROL_COMMANDS:
            with _control(arguments) as control:
                if arguments.command == "load" and arguments.watch:
                    return _load_and_follow(control, arguments)
                _show(CONTROL_COMMANDS[arguments.command](control, arguments), arguments)
        else:
            with _client(arguments) as client:
                _show(COMMANDS[arguments.command](client, arguments), arguments)
                if getattr(arguments, "watch", False):
                    _watch(client, arguments)
    except BrokenPipeError:
        raise
    except ServerError as error:
        return _fail(ExitCode.SERVER, f"{error}{_hint(error)}")
    except ProtocolMismatch as error:
        return _fail(ExitCode.SERVER, str(error))
    except ConnectionFailed as error:
        return _fail(ExitCode.CONNECTION, f"{error} (see --host, --port, --unix-socket)")
    except CallTimeout as error:
        return _fail(ExitCode.TIMEOUT, f"{error} (see --timeout-s, now {arguments.timeout_s:g})")
    except (UsageError, ThriftServeClientError) as error:
        return _fail(ExitCode.USAGE, str(error))
    except OSError as error:
        return _fail(ExitCode.USAGE, f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    return ExitCode.OK


def _hint(error: ServerError) -> str:
    if isinstance(error, UnauthenticatedError):
        return " (see --token-file)"
    if isinstance(error, UnimplementedError):
        return f" (see --port: {', '.join(CONTROL_COMMANDS)} need the control port, all others the serving port)"
    return " (the same call may succeed later)" if error.retryable else ""


def _show(report: Report, arguments: Namespace) -> None:
    print(json.dumps(report.data) if arguments.json else report.text)
    sys.stdout.flush()


def _load_and_follow(control: Control, arguments: Namespace) -> int:
    begun = control.load(arguments.model, arguments.source, version=arguments.version, sha256=arguments.sha256)
    return ExitCode.OK if follow(control, arguments, begun) else ExitCode.SERVER


def _watch(client: Client, arguments: Namespace) -> None:
    """Print the models' versions whenever they have changed, until Ctrl-C."""
    last = None
    while True:
        report = models_report(client)
        if report.data != last:
            print()
            _show(report, arguments)
        last = report.data
        time.sleep(_WATCH_S)


def _ssl(arguments: Namespace) -> SslOptions | None:
    secure = arguments.tls or arguments.tls_ca or arguments.tls_cert
    options = SslOptions(arguments.tls_ca, arguments.tls_cert, arguments.tls_key, arguments.tls_server_name)
    return options if secure else None


def _control(arguments: Namespace) -> Control:
    return Control(
        arguments.host,
        arguments.port,
        transport=arguments.transport,
        protocol=arguments.protocol,
        timeout_s=arguments.timeout_s,
        ssl=_ssl(arguments),
        token=_token(arguments),
    )


def _token(arguments: Namespace) -> str | None:
    if arguments.token_file is None:
        return None
    with open(arguments.token_file, encoding="utf-8", errors="replace") as file:
        return file.read().strip()


def _client(arguments: Namespace) -> Client:
    return Client(
        arguments.host,
        arguments.port,
        unix_socket=arguments.unix_socket,
        transport=arguments.transport,
        protocol=arguments.protocol,
        timeout_s=arguments.timeout_s,
        ssl=_ssl(arguments),
        max_message_bytes=arguments.max_message_bytes,
    )


def _fail(code: ExitCode, message: str) -> ExitCode:
    print("thriftserve-client: " + " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
