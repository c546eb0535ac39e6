"""Runs: many videos by plan, made once each whatever happens, and what is known of them.
docs/sweeps.md.

from skipguide.runs import Run

with Run.open("runs/first") as run:
    for clip in run.clips("done"):
        print(clip.setting, clip.seed, clip.video, clip.metrics)
"""

from skipguide.runs.entities import Clip, Model, Prompt, SetMetric, Setting, Vote
from skipguide.runs.plan import Plan
from skipguide.runs.run import Run

__all__ = ["Clip", "Model", "Plan", "Prompt", "Run", "SetMetric", "Setting", "Vote"]
