"""An agent for tests: it answers each command with an event, and does what it is told to do besides."""

from __future__ import annotations

import logging

from thriftserve.remote.agent import Parent, run_agent


def main(parent: Parent) -> None:
    """Echo commands until one says how to end."""
    while True:
        command = parent.next_command()
        if "print" in command:
            print(command["print"], flush=True)
        if "log" in command:
            logging.getLogger("thriftserve.echo").warning("%s", command["log"])
        parent.report(echo=command)
        if "raise" in command:
            raise RuntimeError(command["raise"])
        if "end" in command:
            return


if __name__ == "__main__":
    run_agent(main)
