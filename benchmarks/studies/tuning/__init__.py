"""Ways of adapting a backbone to grounding, compared: `python -m benchmarks.studies.tuning`."""
