"""The same jobs on thriftserve, on other ways to serve a model, and on no RPC at all."""
