"""Tracking: what a run has made, in TensorBoard, MLflow or Weights & Biases, through their own
packages.

One setting of a run is one run there, so that settings are compared: its parameters, at each step
the numbers of one prompt and seed, the clips, and means and metrics of sets at the end. The same
prompt and seed has the same step in all of them. What is there already is not logged again.
"""

from skipguide.runs.tracking.session import Tracking
from skipguide.runs.tracking.targets import Target, check_targets, parse_targets

__all__ = ["Target", "Tracking", "check_targets", "parse_targets"]
