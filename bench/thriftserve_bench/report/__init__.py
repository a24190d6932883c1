"""What run files say: tables, plots, the page of the experiments, comparisons."""
