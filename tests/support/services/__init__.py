"""Services of the tests' own, their stubs, and the process that hosts them."""
