"""What each benchmark leaves behind: typed records of its run file."""
