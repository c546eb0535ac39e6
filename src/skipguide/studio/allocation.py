"""Give out the tasks of a study: the same number to each rater, all that can be balanced balanced.

Of each rater: as many tasks of every two settings as of any other two, each setting as often on the
left, prompts as evenly as can be. Over all raters: the tasks that fewest have judged come first,
and what was on the left more often goes to the right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from skipguide.runs.study import Assignment, Check, Load
from skipguide.studio.blind_test import Task, draw

Group = tuple[int, ...]  # the settings of a task
Keys = tuple[str, str | None]  # of its clips
Side = Literal["first", "second"]


def allocate(
    every: Sequence[Task],
    count: int,
    checks: Sequence[Check],
    loads: Sequence[Load],
    rater: str,
) -> list[Assignment]:
    """Return the tasks of a rater in the order in which they are shown, attention checks among
    them.

    Args:
        every: all tasks of the test.
        count: how many a rater gets, checks apart.
        loads: what other raters were given.
    """
    chosen = _choose(every, min(count, len(every)), loads, rater)
    sided = _sides(chosen, every, loads, rater)
    given = [
        Assignment(*task.keys, task.left)
        for task in sorted(sided, key=lambda task: draw(rater, "order", *task.keys))
    ]
    return list(_with_checks(given, checks, rater))


def _choose(every: Sequence[Task], count: int, loads: Sequence[Load], rater: str) -> list[Task]:
    given = Counter((load.first, load.second) for load in loads)
    groups: dict[Group, list[Task]] = {}
    for task in every:
        groups.setdefault(_group(task), []).append(task)
    load = {group: sum(given[task.keys] for task in own) for group, own in groups.items()}
    own, prompts = Counter[Group](), Counter[int]()
    chosen: list[Task] = []
    while len(chosen) < count:
        group = min(
            (group for group, left in groups.items() if left),
            key=lambda group: (own[group], load[group], draw(rater, "group", *map(str, group))),
        )
        task = min(
            groups[group],
            key=lambda task: (
                given[task.keys],
                prompts[task.first.prompt],
                draw(rater, "task", *task.keys),
            ),
        )
        groups[group].remove(task)
        own[group] += 1
        prompts[task.first.prompt] += 1
        chosen.append(task)
    return chosen


def _sides(
    chosen: Sequence[Task], every: Sequence[Task], loads: Sequence[Load], rater: str
) -> Iterator[Task]:
    """Yield the tasks with a side for each: what was on the left more often goes to the right."""
    ahead_in, ahead = Counter[Keys](), Counter[Group]()  # lefts more than rights of each
    known = {task.keys: task for task in every}
    for load in loads:
        if (task := known.get((load.first, load.second))) and load.left:
            turn = _sign(task) * (1 if load.left == "first" else -1)
            ahead_in[task.keys] += turn
            ahead[_group(task)] += turn
    groups: dict[Group, list[Task]] = {}
    for task in chosen:
        groups.setdefault(_group(task), []).append(task)
    for group, own in groups.items():
        own.sort(key=lambda task: (ahead_in[task.keys], draw(rater, "side", *task.keys)))
        odd = ahead[group] < 0 or (ahead[group] == 0 and draw(rater, "odd", str(group)) % 2)
        lefts = (len(own) + bool(odd)) // 2
        for place, task in enumerate(own):
            is_first = (place < lefts) == (_sign(task) == 1)
            yield (
                task
                if task.second is None
                else replace(task, left="first" if is_first else "second")
            )


def _with_checks(
    given: Sequence[Assignment], checks: Sequence[Check], rater: str
) -> Iterator[Assignment]:
    """Yield the tasks with a check at a random place in each of as many parts as there are checks.

    None is the very first thing that a rater sees, where there is anything else.
    """
    places: dict[int, list[Check]] = {}
    order = sorted(checks, key=lambda check: draw(rater, "check", check.name))
    for number, check in enumerate(order):
        start = len(given) * number // len(order)
        end = len(given) * (number + 1) // len(order)
        start = max(start, min(1, len(given)))
        place = start + draw(rater, "place", check.name) % max(end - start, 1)
        places.setdefault(place, []).append(check)
    for place in range(len(given) + 1):
        for check in places.get(place, []):
            side: Side = "first" if draw(rater, "side", check.name) % 2 else "second"
            yield Assignment(check.clip, None, side, check.name)
        if place < len(given):
            yield given[place]


def _group(task: Task) -> Group:
    clips = [clip for clip in (task.first, task.second) if clip is not None]
    return tuple(sorted(clip.setting for clip in clips))


def _sign(task: Task) -> int:
    """Return 1 if the clip that is `first` has the setting that its group counts from."""
    return 1 if task.first.setting == _group(task)[0] else -1
