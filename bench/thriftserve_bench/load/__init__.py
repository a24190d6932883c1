"""Load: connections, protocols, closed and open loops, and the child processes that run them."""
