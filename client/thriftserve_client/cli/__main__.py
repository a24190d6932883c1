"""`python -m thriftserve_client.cli` is `thriftserve-client`."""

import sys

from thriftserve_client.cli.main import main

sys.exit(main())
