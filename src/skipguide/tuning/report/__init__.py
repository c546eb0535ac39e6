"""The page of a tuning, and what the studio shows of it."""
