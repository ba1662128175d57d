"""Long trials of what must never happen: see `python -m experiments.torture --help`."""
