"""Load a model: which weights, and where they run."""
