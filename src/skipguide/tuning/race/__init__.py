"""The race: which settings take part, who goes after each round, scale and window, votes."""
