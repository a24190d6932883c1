"""What is on disk: base paths and their versions, settings beside them, and what the processes tell each other."""
