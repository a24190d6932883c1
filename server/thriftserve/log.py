"""Log lines on stderr, as text or as JSON.

    logging.getLogger(__name__).info(…)  -->  TextFormatter | JsonFormatter  -->  one line on stderr

Text: `2026-11-21T10:00:00.123Z info thriftserve.app 4711 loaded model digits`, then the traceback if there is one.
JSON: one object per line with time, level, logger, pid, message and, if there is a traceback, error.
Lines never wait for whoever reads them; see `log_output`.
Only the command lines configure logging; every other module just logs.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

from thriftserve.log_output import LogOutput, OutputStream, ensure_standard_streams

#: Lines about peers, of one kind: so many at once, and then so many a second.
_PEER_BURST, _PEER_LINES_PER_S = 50, 1

#: A line break in a message would let a client whose text is quoted in it forge log lines.
_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\x1b": "\\x1b"})


def configure(level: str, log_format: str) -> None:
    """Send the lines of every logger to stderr, without waiting for its reader, and what is printed there as well.

    Forked processes print to stderr, too: nobody may read stdout after its one line.

    Args:
        level: "debug", "info", "warning" or "error": the least severe lines to write.
        log_format: "text" or "json".
    """
    closed = _open_closed_streams()
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if (fd := _descriptor(sys.stderr)) is not None:
        output = LogOutput(fd, lambda count: formatter.format(_note(count)) + "\n")
        handler = OutputHandler(output)
        sys.stderr = OutputStream(output, fd)
        os.register_at_fork(after_in_child=_print_to_stderr)
    handler.setFormatter(formatter)
    handler.addFilter(PeerLimit())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    if closed:
        logging.getLogger(__name__).warning("closed when this process was started: %s", ", ".join(closed))


def announce(line: str) -> None:
    """Print the line that says that a server is ready; log it where stdout does not take it."""
    try:
        print(line, flush=True)  # noqa: T201  # scripts wait for it
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # what is left of the line must not be tried again
        logging.getLogger(__name__).warning("stdout does not take the ready line (%s): %s", error.strerror, line)


def _open_closed_streams() -> list[str]:
    """Open /dev/null in place of closed standard streams; return the names of those."""
    closed = ensure_standard_streams()
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    return closed


def _descriptor(stream: TextIO | None) -> int | None:
    """Return the descriptor of a stream; None if it has none, as in tests."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _print_to_stderr() -> None:
    sys.stdout = sys.stderr


def _note(count: int) -> logging.LogRecord:
    text = "%d log lines were dropped: stderr took no more"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)


class OutputHandler(logging.Handler):
    """Hands lines to a `LogOutput`."""

    def __init__(self, output: LogOutput) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._output.close()
        super().close()


class PeerLimit(logging.Filter):
    """Lets lines about peers through at a bounded rate: a flood of bad ones must not cost more than their answers.

    A line is about a peer if its text begins with `%s: `. Lines of one text, with the same kind of error in it, are one
    kind. Each kind may have some lines at once, and then one a second; the next line tells how many are missing.
    """

    def __init__(self) -> None:
        super().__init__()
        #: By kind: lines left, when that was, and lines that are missing.
        self._kinds: dict[tuple[str, str], tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line."""
        if not (isinstance(record.msg, str) and record.msg.startswith("%s: ")) or record.levelno > logging.WARNING:
            return True
        last = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        kind = (record.msg, type(last).__name__)
        now = time.monotonic()
        left, at, missing = self._kinds.get(kind, (float(_PEER_BURST), now, 0))
        left = min(float(_PEER_BURST), left + (now - at) * _PEER_LINES_PER_S)
        if left < 1:
            self._kinds[kind] = (left, now, missing + 1)
            return False
        self._kinds[kind] = (left - 1, now, 0)
        if missing:
            record.msg, record.args = f"{record.getMessage()} (and {missing} more like it)", None
        return True


def timestamp(record: logging.LogRecord) -> str:
    """Return when a record was created: UTC, to the millisecond, RFC 3339."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """Formats a record as a line for people: timestamp, level, logger, process id, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the lines of the traceback if there is one."""
        message = record.getMessage().translate(_ESCAPES)
        line = f"{timestamp(record)} {record.levelname.lower()} {record.name} {record.process} {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Its key `error`, the traceback, exists only if there is one."""
        content = {
            "time": timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["error"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
