"""The part of the library skipguide that the pack uses."""
