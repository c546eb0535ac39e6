"""The order in which a rater of a tuning's race is asked: what tells most of the best one first.

Of any other test the order stays as it is; a study has its own (`allocation`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from skipguide.runs import Run, judged
from skipguide.studio import blind_test
from skipguide.studio.blind_test import Task
from skipguide.studio.study_tasks import Test
from skipguide.tuning.race import votes as vote_race
from skipguide.tuning.report import shown


def arrange(run: Run, test: Test, left: Sequence[Task], rater: str) -> list[Task]:
    """Return the tasks to show, the next one first.

    While `skipguide tune` waits for votes on some of the settings of the test, these are the pairs
    that are still of use, by what they tell, each on the prompt on which it was judged least often;
    as many as are expected to be needed, and none when the race is over.

    Args:
        left: the tasks that the rater has not answered, in their order.
    """
    asked = shown.compared_settings(run)
    if asked is None or test.study is not None or test.kind != "pair":
        return list(left)
    ids = {setting.name: setting.id for setting in run.settings()}
    if not {ids.get(name) for name in asked["names"]} <= set(test.settings):
        return list(left)
    rules = vote_race.VoteRules.of(asked)
    state = vote_race.state(run, asked["names"], asked["baseline"], asked["prompts"], rules)
    if state.over:
        return []
    places = {frozenset(ids[name] for name in pair): i for i, pair in enumerate(state.pairs)}
    fit = [
        task for task in left if _settings(task) in places and task.first.prompt in asked["prompts"]
    ]
    votes = [vote for vote in run.counted_votes() if vote.kind == "pair"]
    duels = judged.duels(votes, judged.clips_of(run, votes))
    judged_on = Counter((frozenset({duel.first, duel.second}), duel.cluster) for duel in duels)
    fit.sort(
        key=lambda task: (
            places[_settings(task)],
            judged_on[_settings(task), task.first.prompt],
            blind_test.draw(rater, "order", *task.keys),
        )
    )
    return fit[: max(state.more_votes or len(fit), 1)]


def _settings(task: Task) -> frozenset[int]:
    return frozenset(clip.setting for clip in task.clips_in_order)
