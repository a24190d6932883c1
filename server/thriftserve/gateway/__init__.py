"""The same models over HTTP: TensorFlow Serving's REST API and more, in front of one server or several."""
