"""Encoding videos and sentences into a store: alone or shared out, and within memory."""
