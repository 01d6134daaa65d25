"""Options, notes, bars and output that the commands share at a terminal."""
