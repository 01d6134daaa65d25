"""Ways of adapting a vision-language backbone to grounding, compared: `python -m benchmarks.tuning`."""
