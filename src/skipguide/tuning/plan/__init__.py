"""What each stage of a tuning gets of the budget, and what it can resolve."""
