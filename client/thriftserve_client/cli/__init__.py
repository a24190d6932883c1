"""The command line `thriftserve-client`."""

from thriftserve_client.cli.main import main

__all__ = ["main"]
