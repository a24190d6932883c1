"""`python -m thriftserve` is `thriftserve`."""

import sys

from thriftserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
