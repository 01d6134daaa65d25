"""Answering: from videos and sentences to moments in seconds."""
