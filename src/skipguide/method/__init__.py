"""The method itself, on torch alone: formula, terms, rules for CFG, perturbations, restart,
request."""
