"""Log lines on stderr, as text or as JSON.

    logging.getLogger(__name__).info(…)  -->  TextFormatter | JsonFormatter  -->  one line on stderr

Text: `2026-11-21T10:00:00.123Z info thriftserve.app 4711 loaded model digits`, then the traceback if there is one.
JSON: one object per line with time, level, logger, pid, message and, if there is a traceback, error.
Only the command lines configure logging; every other module just logs.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

#: A line break in a message would let a client whose text is quoted in it forge log lines.
_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\x1b": "\\x1b"})


def configure(level: str, log_format: str) -> None:
    """Send the lines of every logger to stderr.

    Args:
        level: "debug", "info", "warning" or "error": the least severe lines to write.
        log_format: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


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
