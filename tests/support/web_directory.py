"""A web server that lists directories, as a base path behind a URL, with what goes wrong with such.

with http_server(directory) as (url, files):  -->  files.broken.add(NAME), files.asked
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a directory; files that end in a name of `broken` are cut after half of what was announced."""

    broken: ClassVar[set[str]]
    asked: ClassVar[list[str]]

    def log_message(self, format: str, *args: Any) -> None:
        if self.command == "GET":
            self.asked.append(self.path)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        cut = any(self.path.endswith(name) for name in self.broken)
        outputfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = True


@contextmanager
def http_server(directory: Path) -> Iterator[tuple[str, type[Files]]]:
    """Serves a directory on loopback: its URL, and what to break and to look at."""
    kind = type("Files", (Files,), {"broken": set(), "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kind
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
