"""Raters who are simulated: each prefers the stronger setting, with some chance in it."""

from __future__ import annotations

import random
from collections.abc import Callable

from skipguide.runs import Run
from skipguide.studio import blind_test


def let_judge(
    run: Run, strength: Callable[[int], float], drawn: random.Random, most: int | None = None
) -> None:
    """Let three raters judge pairs of all settings.

    Args:
        run: open for writing.
        strength: what they think of a setting, by its id.
        most: pairs of each rater; None for all there are.
    """
    clips, ids = run.clips("done"), [setting.id for setting in run.settings()]
    for rater in ("simulated A", "simulated B", "simulated C"):
        for task in blind_test.tasks(clips, "pair", ids, rater)[:most]:
            left, right = (strength(clip.setting) for clip in task.clips_in_order)
            felt = left - right + drawn.gauss(0, 1)
            side = "tie" if abs(felt) < 0.2 else "left" if felt > 0 else "right"
            for given in blind_test.build_votes(task, rater, {"preference": side}, 6.0):
                run.vote(given)
