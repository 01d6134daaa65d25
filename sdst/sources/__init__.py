"""Where a dataset comes from: its splits, and the source of its features."""
