"""`python -m thriftserve_bench` and `thriftserve-bench`: the command line, or what to install for it."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; without the extra `bench`, say in one line that it is missing."""
    try:
        from thriftserve_bench.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("thriftserve"):
            raise
        print(
            f"thriftserve-bench: error: it needs {error.name}, which is not installed: "
            "pip install '.[server,gateway,bench]' in a checkout of thriftserve",
            file=sys.stderr,
        )
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
