"""thriftserve_client: call a thriftserve server from Python."""
