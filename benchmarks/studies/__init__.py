"""Comparisons that train models or answer many queries, each a command that prints its table."""
