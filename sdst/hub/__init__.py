"""Models and weights by their names: of this machine, of the package, and of a hub."""
