"""What the commands share at a terminal: options, notes, bars and output."""
