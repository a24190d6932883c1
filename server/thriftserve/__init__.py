"""thriftserve: a Thrift RPC model server."""

__version__ = "0.1.0"
