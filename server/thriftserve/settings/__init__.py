"""Every setting of a server, and the sources that its value may come from."""

from thriftserve.settings.host import MAX_MESSAGE_LIMIT, HostSettings
from thriftserve.settings.serve import ServeSettings
from thriftserve.settings.server_types import SERVER_TYPES
from thriftserve.settings.sources import Effective, gather

__all__ = ["MAX_MESSAGE_LIMIT", "SERVER_TYPES", "Effective", "HostSettings", "ServeSettings", "gather"]
