"""The demo from its first step to its last.

digits  -->  model  -->  server  -->  answers  -->  report
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from demo import digits, model, report, sending
from demo.options import Options
from thriftserve_bench.processes import ServerProcess, clean_environment


def run(options: Options, console: Console) -> int:
    """Train if need be, serves, sends, reports; or serves until it is interrupted.

    Returns:
        The exit code: 0, or 1 where too many answers were wrong.

    Raises:
        TrainingFailed, ServerFailed, ThriftServeClientError: the step that failed; what was begun is undone.
    """
    held_out, files = _digits(options, console)
    served = _model(options, console)
    if options.serve:
        return _serve(options, console, served, files[0])
    with _server(options, console, served) as server:
        _step(
            console, f"Sending {len(files)} PNG files, {options.rounds} times each, over {options.clients} connections"
        )
        sent = _send(options, console, server, files)
    report.show(console, options, held_out, sent)
    report.show_commands(console, report.commands(options, files[0], None))
    if report.accuracy(held_out, sent) >= report.EXPECTED_ACCURACY:
        return 0
    console.print(f"\naccuracy is under {report.EXPECTED_ACCURACY:.0%}: something is wrong", style="bold red")
    return 1


def _step(console: Console, text: str) -> None:
    console.print(text, style="bold", markup=False, highlight=False)


def _print_line(console: Console, text: str) -> None:
    """Return A line that tells of paths and ports: not wrapped, so that it can be copied."""
    console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)


def _digits(options: Options, console: Console) -> tuple[digits.Digits, list[Path]]:
    _step(console, "Handwritten digits")
    with console.status("reading the scans"):
        held_out = digits.held_out(options.images_path)
        files = digits.write(held_out, options.images_path)
    trained_on, count = digits.SCANS - len(files), len(files)
    _print_line(
        console, f"{digits.SCANS:,} scans: {trained_on:,} to train on, {count} held out in {options.images_path}"
    )
    return held_out, files


def _model(options: Options, console: Console) -> model.Model:
    _step(console, "A convolutional network")
    existing = None if options.retrain else model.newest(options.model_path)
    if existing is not None:
        _print_line(
            console, f"trained before: {existing.base_path}/{existing.version} (--retrain makes another version)"
        )
        return existing
    begun = time.monotonic()
    with _progress(console) as bar:
        task = bar.add_task("importing TensorFlow", total=None)
        trained = model.make(
            options.model_path,
            lambda epoch, epochs, loss: bar.update(
                task, completed=epoch, total=epochs, description=f"learning, loss {loss:.2f}"
            ),
        )
    _print_line(console, f"trained in {time.monotonic() - begun:.1f} s: {trained.base_path}/{trained.version}")
    return trained


def _arguments(options: Options, served: model.Model) -> list[str]:
    model_flag = f"digits={served.base_path}"
    return ["--model", model_flag, "--server-type", options.server_type, "--port", str(options.port)]


@contextmanager
def _server(options: Options, console: Console, served: model.Model) -> Iterator[ServerProcess]:
    """Yield the server, ready; it is stopped at the end, and where anything fails."""
    arguments = _arguments(options, served)
    _step(console, f"The server, {options.server_type}")
    _print_line(console, f"thriftserve serve {' '.join(arguments)}")
    process = ServerProcess(arguments, env=clean_environment(TF_CPP_MIN_LOG_LEVEL="2"), show_log=options.serve)
    # Where the server's log shows, a spinner would run through its lines.
    with nullcontext() if options.serve else console.status("loading the model"):
        process.start()
    with process as server:
        _print_line(console, f"ready on {server.host}:{server.port}, pid {server.pid}")
        yield server


def _serve(options: Options, console: Console, served: model.Model, image: Path) -> int:
    with _server(options, console, served) as server:
        report.show_commands(console, report.commands(options, image, server.port))
        console.print("\nCtrl-C stops the server.", style="bold")
        try:
            return server.wait()
        except KeyboardInterrupt:
            console.print("\nstopping")
            return server.stop() or 0


def _send(options: Options, console: Console, server: ServerProcess, files: list[Path]) -> sending.Sent:
    everything = files * options.rounds
    with _progress(console) as bar:
        task = bar.add_task("sending", total=len(everything))
        return sending.send(server.host, server.port, everything, options.clients, lambda: bar.advance(task))


def _progress(console: Console) -> Progress:
    """Return A bar; where the output is no terminal it is drawn once, when it is done."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
    )
