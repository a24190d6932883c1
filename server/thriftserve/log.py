"""Log lines on stderr, as text or as JSON.

::

    logging.getLogger(__name__).info(…)  -->  TextLines | JsonLines  -->  one line on stderr

Text: `2026-11-21T10:00:00.123Z info thriftserve.app 4711 loaded model digits`, then the traceback where there is one.
JSON: one object a line with time, level, logger, pid, message and, where there is one, error (the traceback).
Only the command line configures logging; everything else just logs.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

#: A line break in a message would let whoever is quoted in it write log lines of their own.
_BREAKS = str.maketrans({"\n": "\\n", "\r": "\\r", "\x1b": "\\x1b"})


def configure(level: str, form: str) -> None:
    """Sends every logger's lines to stderr.

    Args:
        level: "debug", "info", "warning" or "error": the least severe lines to write.
        form: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def moment(record: logging.LogRecord) -> str:
    """When a record was made: UTC, to the millisecond, RFC 3339."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextLines(logging.Formatter):
    """A record as a line for people: moment, level, logger, process id, message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows on lines of its own."""
        message = record.getMessage().translate(_BREAKS)
        line = f"{moment(record)} {record.levelname.lower()} {record.name} {record.process} {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """A record as one JSON object on one line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; the key `error`, the traceback, is there only where there is one."""
        content = {
            "time": moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["error"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
