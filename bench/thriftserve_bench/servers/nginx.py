"""nginx before one stack or the other, set up alike.

ports of the applications  --Nginx-->  one port  --stop-->  no process left
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

_STOP_TIMEOUT_S = 5.0
#: Debian installs it where only root's PATH leads.
_MORE_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
#: One worker a core, connections to the application kept open if it keeps them: deploy/nginx.conf in short.
_CONFIG = """\
daemon off;
{user}
worker_processes auto;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
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
    """Return the path of nginx, or None if it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path=_MORE_PATHS)


class Nginx:
    """A running nginx of our own.

    Args:
        program: from `nginx_program`.
        applications: TCP ports on this machine; requests go to the one with the fewest in progress.
        directory: an empty one, for its files.

    Attributes:
        port: where it listens.
        pid: of its master process.
    """

    def __init__(self, program: str, applications: Sequence[int], directory: Path) -> None:
        # Bound, not listening, for as long as nginx runs: the kernel gives nobody else the port meanwhile.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = int(self._reserved.getsockname()[1])
        config = directory / "nginx.conf"
        config.write_text(config_text(self.port, applications, directory), encoding="utf-8")
        self._log = directory / "nginx.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-e", "stderr", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def log_tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-1000:].strip()

    def stop(self) -> None:
        """End it with its workers."""
        process_tree.stop(self.pid, _STOP_TIMEOUT_S)
        self._process.wait()
        self._reserved.close()


def config_text(port: int, applications: Sequence[int], directory: Path) -> str:
    """Return the configuration file."""
    servers = "\n".join(f"        server 127.0.0.1:{application};" for application in applications)
    # As root it would run its workers as another user, who can't write here.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    return _CONFIG.format(port=port, servers=servers, directory=directory, user=user)
