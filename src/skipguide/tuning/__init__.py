"""The layer, the scale, and whether to use STG at all, by measurement on one's own model."""
