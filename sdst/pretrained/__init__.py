"""Model folders: weights with all that answering needs, and their description."""
