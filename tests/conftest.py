"""Nothing is shared by all tests, for each file imports the helpers that it needs, but for what the process inherits."""

import signal


def pytest_configure() -> None:
    """SIGINT acts as usual: a shell's background jobs ignore it, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
