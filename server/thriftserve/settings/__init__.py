"""Every setting of a server, and the sources that its value may come from."""

from thriftserve.settings.sources import Effective, gather
from thriftserve.settings.table import MAX_MESSAGE_LIMIT, SERVER_TYPES, HostSettings, ServeSettings

__all__ = ["MAX_MESSAGE_LIMIT", "SERVER_TYPES", "Effective", "HostSettings", "ServeSettings", "gather"]
