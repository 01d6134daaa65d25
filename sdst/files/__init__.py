"""How files are read and written: whole or not at all, sealed, in any encoding."""
