"""A corpus of videos in a vector index: which of them may hold what a sentence describes."""
