"""The answer on prompts that chose nothing, and the preset that it writes."""
