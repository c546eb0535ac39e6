"""The facts about each model family, as data, and their lookup."""
