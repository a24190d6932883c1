"""The command line `thriftserve`.

::

    serve:       argv, environment, TOML file  -->  ServeSettings  -->  app.serve  -->  exit code
    tfs:         flags of tensorflow_model_server  -->  those of serve  -->  the same as serve
    gateway:     the same, GatewaySettings  -->  gateway.command.run  -->  exit code
    model:       argv  -->  tools.cli.run: check, convert, record, tune  -->  exit code

Help and usage errors import nothing heavy.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from thriftserve import __version__, log
from thriftserve.errors import ConfigError, ExitCode, StartError
from thriftserve.gateway import command as gateway_command
from thriftserve.settings import Effective, ServeSettings, gather, tfs
from thriftserve.settings.field import Settings, settings_of
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.settings.sources import add_flags, did_you_mean, flag_names, format_value, given_flags
from thriftserve.tools import cli as model_cli

_Parser = argparse.ArgumentParser

logger = logging.getLogger(__name__)

_DESCRIPTION = "A Thrift RPC model server: TensorFlow and Python models behind a selectable Thrift server type."

_SERVE = """\
Serve models until a signal ends the server. Once every worker has loaded its models, one line on stdout says so:

  thriftserve ready host=127.0.0.1 port=9090 server_type=TBatchingServer workers=2 pid=4711

Logs go to stderr. SIGTERM and SIGINT finish accepted requests, then end the server. SIGHUP loads new versions.
"""

_TFS = """\
Serve models with the command line of TensorFlow Serving's tensorflow_model_server. Its flags keep their names and
meanings; what has no meaning here is told on stderr. HTTP listens on --rest_api_port. There is no gRPC yet: nothing
listens on --port. Thrift listens on --thrift_port, if that is given. THRIFTSERVE_… variables count as for serve.

  thriftserve tfs --rest_api_port=8501 --model_name=digits --model_base_path=/models/digits
"""

_EXAMPLES = """\
examples:
  serve the newest version below a directory (/models/digits/3/saved_model.pb):
    thriftserve serve --model digits=/models/digits

  add a Python class (methods load, predict) of a file of your own; the kernel picks the port:
    thriftserve serve --model digits=/models/digits --model greet=./greet.py:Greeter --port 0

  run one worker process on each of two GPUs, at most 32 rows in a batch:
    thriftserve serve --model digits=/models/digits --devices gpu:0,gpu:1 --workers 2 --max-batch-size 32

  debug a model: everything runs in one process:
    thriftserve serve --model digits=/models/digits --server-type TSimpleServer

  print the settings from a file and the environment, without serving:
    THRIFTSERVE_PORT=9091 thriftserve serve --config server.toml --print-settings

Each setting is also a key of the TOML file and a THRIFTSERVE_<NAME> variable. All settings:
docs/reference/settings.md.
Exit codes, signals and logs: docs/reference/commands.md.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None: those of the process.

    Returns:
        The exit code: an `ExitCode`, or 130 for Ctrl-C before the server could handle it.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except StartError as error:
        print(f"thriftserve: error: {' '.join(error.message.split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("thriftserve"):
            raise
        print(f"thriftserve: error: {_missing_package(error)}", file=sys.stderr)
        return ExitCode.CONFIG
    except Exception:
        logger.critical("thriftserve failed", exc_info=True)  # not foreseen: the traceback is needed to fix it
        return ExitCode.INTERNAL


def _missing_package(error: ModuleNotFoundError) -> str:
    return (
        f"it needs {error.name}, which is not installed: pip install '.[server]' in a checkout of thriftserve, "
        "and '.[server,gateway]' to answer HTTP"
    )


def _run(arguments: Sequence[str]) -> int:
    parser, serve, gateway, model = _parsers()
    options, unknown = parser.parse_known_args(arguments)
    if unknown and options.command == "model":
        name = options.model_command
        model[name].error(f"unrecognized argument {unknown[0]}: see thriftserve model {name} --help")
    if unknown and options.command == "gateway":
        gateway.error(_unknown_argument(unknown[0], GatewaySettings))
    if unknown and options.command == "tfs":
        raise ConfigError(f"unknown option {unknown[0]}: see thriftserve tfs --help")
    if unknown:
        serve.error(_unknown_argument(unknown[0], ServeSettings))
    if options.command == "model":
        return model_cli.run(options)
    if options.command == "gateway":
        return _run_gateway(options)
    if options.command == "serve":
        return _run_serve(given_flags(options, ServeSettings), options.config, show=options.print_settings)
    if options.command == "tfs":
        return _run_tfs(options)
    parser.print_help(sys.stderr)
    return ExitCode.CONFIG


def _run_tfs(options: argparse.Namespace) -> int:
    translation = tfs.translate(vars(options))
    for remark in translation.remarks:
        print(f"thriftserve tfs: {remark}", file=sys.stderr)
    os.environ.update({name: value for name, value in translation.environ.items() if name not in os.environ})
    with tempfile.TemporaryDirectory(prefix="thriftserve-tfs-") as directory:
        flags = translation.flags
        if "port" not in flags:  # the gateway reaches the node there, and nobody else
            flags = {**flags, "unix_socket": str(Path(directory) / "thrift.sock")}
        return _run_serve(flags, options.config, show=options.print_settings)


def _run_serve(flags: Mapping[str, Any], config: str | None, *, show: bool) -> int:
    source = partial(gather, ServeSettings, flags=flags, environ=dict(os.environ), config=config)
    effective = source()
    if show:
        _print_settings(effective)
        return ExitCode.OK
    log.configure(effective.settings.log_level, effective.settings.log_format)
    from thriftserve import app

    return app.serve(lambda: source().settings)


def _run_gateway(options: argparse.Namespace) -> int:
    effective = gateway_command.settings_of(options)
    if options.print_settings:
        _print_settings(effective)
        return ExitCode.OK
    return gateway_command.run(effective.settings)


def _parsers() -> tuple[_Parser, _Parser, _Parser, Mapping[str, _Parser]]:
    """Return the main parser, and those of the commands `serve`, `gateway`, and of each command below `model`."""
    parser = argparse.ArgumentParser("thriftserve", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"thriftserve {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    serve = commands.add_parser(
        "serve",
        help="serve models; `thriftserve serve --help` has examples",
        usage="thriftserve serve --model NAME=PATH [--model NAME=PATH ...] [options]",
        description=_SERVE,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(serve, ServeSettings)
    drop_in = commands.add_parser(
        "tfs",
        help="serve with the flags of tensorflow_model_server",
        usage="thriftserve tfs --rest_api_port=8501 --model_name=NAME --model_base_path=PATH [options]",
        description=_TFS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    drop_in.add_argument("--config", metavar="FILE", help="TOML file with further settings of thriftserve serve")
    drop_in.add_argument("--print-settings", action="store_true", help="print every value and its source, and exit")
    tfs.add_flags(drop_in)
    return parser, serve, gateway_command.add_to(commands), model_cli.add_to(commands)


def _unknown_argument(argument: str, cls: type[Settings]) -> str:
    if not argument.startswith("-") and cls is ServeSettings:
        example = argument if "=" in argument else f"NAME={argument}"
        return f"unexpected argument {argument!r}: a model is given as --model {example}"
    return f"unknown option {argument}{did_you_mean(argument.partition('=')[0], flag_names(cls))}"


def _print_settings(effective: Effective[ServeSettings] | Effective[GatewaySettings]) -> None:
    rows = [("setting", "value", "source")]
    rows += [
        (setting.name, format_value(getattr(effective.settings, setting.name)), effective.origins[setting.name])
        for setting in settings_of(type(effective.settings))
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
