"""SavedModels in TensorFlow sessions. Nothing outside this package imports TensorFlow, but for `thriftserve.tools`."""
