"""Our HTTP side beside the published stack of the same shape: nginx, gunicorn, Flask and gRPC."""
