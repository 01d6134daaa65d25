"""Behind `serve`: a library of videos, their encoding, batched answers, and the page for it."""
