"""How benchmarks measure: calls in turn, on a GPU, whole steps, against the roofline."""
