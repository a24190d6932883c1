"""Every setting of a server, and the sources of its value."""

from thriftserve.settings.host import MAX_MESSAGE_LIMIT, SERVER_TYPES, HostSettings
from thriftserve.settings.serve import ServeSettings
from thriftserve.settings.sources import Effective, gather

__all__ = ["MAX_MESSAGE_LIMIT", "SERVER_TYPES", "Effective", "HostSettings", "ServeSettings", "gather"]
