"""What the pack uses of the library skipguide."""
