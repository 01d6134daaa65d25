"""Model folders: weights with all that answering needs and what is to be known about them."""
