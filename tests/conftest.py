"""Each file imports the helpers that it needs; what all share is how the process treats signals."""

import signal


def pytest_configure() -> None:
    """SIGINT acts as usual: a shell's background jobs ignore it, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
