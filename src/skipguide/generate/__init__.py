"""One video from its settings, with its record."""
