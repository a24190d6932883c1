"""Nothing is shared by all tests: each file imports the helpers that it needs."""
