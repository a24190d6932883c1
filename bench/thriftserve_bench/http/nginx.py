"""nginx before one stack or the other, set up alike.

ports of the applications  --Nginx.start-->  one port  --stop-->  no process left
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from thriftserve_bench import process_tree

_STOP_PATIENCE_S = 5.0
#: Debian has it where only root looks.
_MORE_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
#: One worker a core, connections to the application kept open where it keeps them: deploy/nginx.conf in short.
_CONFIG = """\
daemon off;
{user}
worker_processes auto;
pid {place}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    upstream application {{
        least_conn;
{servers}
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


def nginx_program() -> str | None:
    """Where nginx is; None: it is not here."""
    return shutil.which("nginx") or shutil.which("nginx", path=_MORE_PATHS)


class Nginx:
    """A running nginx of our own.

    Args:
        program: from `nginx_program`.
        applications: TCP ports on this machine; requests go to the one with the least in hand.
        place: an empty directory for its files.

    Attributes:
        port: where it listens.
        pid: of its master process.
    """

    def __init__(self, program: str, applications: Sequence[int], place: Path) -> None:
        # Bound, not listening, for as long as nginx runs: nobody else is given the port meanwhile.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = int(self._held.getsockname()[1])
        config = place / "nginx.conf"
        config.write_text(config_text(self.port, applications, place), encoding="utf-8")
        self._log = place / "nginx.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-e", "stderr", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def log_tail(self) -> str:
        """What it said last."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-1000:].strip()

    def stop(self) -> None:
        """Ends it with its workers."""
        process_tree.stop(self.pid, _STOP_PATIENCE_S)
        self._process.wait()
        self._held.close()


def config_text(port: int, applications: Sequence[int], place: Path) -> str:
    """The configuration file."""
    servers = "\n".join(f"        server 127.0.0.1:{one};" for one in applications)
    # As root it would give its workers another user, who can't write here.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    return _CONFIG.format(port=port, servers=servers, place=place, user=user)
