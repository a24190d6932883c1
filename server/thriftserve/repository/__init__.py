"""What is on disk: base paths and their versions, settings beside them, and the state that processes share."""
