"""The page, the tables and the plots of the experiments."""
