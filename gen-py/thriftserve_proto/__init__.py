"""Messages of TensorFlow and TensorFlow Serving, generated from idl/thriftserve_proto by idl/generate.sh."""
