"""The feature store: features of videos and queries, written once and memory-mapped."""
