"""thriftserve_bench: measures thriftserve's server types against each other and against Apache's."""
