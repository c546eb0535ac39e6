"""The blind test of a run: the next task of a rater, what an answer means, what all answers say.

The questions on one video are the five of EvalCrafter (arXiv:2310.11440), which STG's paper asked
too (appendix A2).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import Clip, Run, Vote, judged
from skipguide.runs.study import RULE, Assignment, Check, Kind, Study
from skipguide.stats import head_to_head, intervals, preference

# By kind of task: question -> (what it is about, the question itself).
Questions = Mapping[str, tuple[str, str]]
QUESTIONS: dict[Kind, Questions] = {
    "rating": {
        "video quality": ("Video quality", "Is the picture clean: no blur, noise or distortion?"),
        "text alignment": ("Agreement with the text", "Does the video show what the text says?"),
        "motion quality": (
            "Motion quality",
            "Is the motion plausible, and as much as the text asks for?",
        ),
        "temporal consistency": (
            "Consistency over time",
            "Does everything stay what it is from frame to frame?",
        ),
        "subjective likeness": ("Liking", "How much do you like it?"),
    },
    "pair": {"preference": ("Preference", "Which of the two is the better video of this text?")},
}
# Those that a picture can be asked about; the same question has the same name.
PICTURE_QUESTIONS: dict[Kind, Questions] = {
    "rating": {
        "picture quality": (
            "Picture quality",
            "Is the picture clean: no blur, noise or distortion?",
        ),
        "text alignment": ("Agreement with the text", "Does the picture show what the text says?"),
        "subjective likeness": QUESTIONS["rating"]["subjective likeness"],
    },
    "pair": {"preference": ("Preference", "Which of the two is the better picture of this text?")},
}
_SIDES = {"left": "right", "right": "left"}
_POSSIBLE: dict[Kind, Sequence[str]] = {
    "rating": ("1", "2", "3", "4", "5"),
    "pair": ("left", "right", "tie"),
}


@dataclass(frozen=True)
class Task:
    """One thing to judge. Of a pair `first` has the smaller key; `left` says which is on the
    left. Of an attention check `first` is the clip, and a second one of it stands for its copy."""

    first: Clip
    second: Clip | None = None
    left: Literal["first", "second"] | None = None
    check: Check | None = None

    @property
    def keys(self) -> tuple[str, str | None]:
        """Return the keys of its clips, which name it in votes."""
        return self.first.key, self.second.key if self.second else None

    @property
    def kind(self) -> Kind:
        """Return whether one clip is rated, or two are compared."""
        return "rating" if self.second is None else "pair"

    @property
    def questions(self) -> Questions:
        """Return what is asked about it."""
        return (PICTURE_QUESTIONS if self.first.is_picture else QUESTIONS)[self.kind]

    @property
    def clips_in_order(self) -> list[Clip]:
        """Return the clips from left to right."""
        pair = [clip for clip in (self.first, self.second) if clip is not None]
        return pair[::-1] if self.left == "second" else pair

    @property
    def seconds(self) -> float:
        """Return how long it takes to see all of it once; both of a pair play at the same time.

        A picture takes a second.
        """
        return max((clip.frames or 0) / float(clip.fps or 1) for clip in self.clips_in_order)


def tasks(clips: Sequence[Clip], kind: Kind, settings: Sequence[int], rater: str) -> list[Task]:
    """Return all tasks of a rater, in a random order that is the same at every visit.

    The sides of a pair are as random.

    Args:
        settings: ids of those that are compared.

    Raises:
        ValueError: if nothing can be judged.
    """
    found = find_tasks(clips, kind, settings, rater)
    if not found:
        noun = "picture" if any(clip.is_picture for clip in clips) else "video"
        needed = (
            f"a finished {noun}"
            if kind == "rating"
            else f"two finished {noun}s of one prompt and seed"
        )
        raise ValueError(
            f"a test needs {needed} of the settings in its link, but the run has none. Ask for"
            " another link."
        )
    return sorted(found, key=lambda task: draw(rater, "order", *task.keys))


def find_tasks(
    clips: Sequence[Clip], kind: Kind, settings: Sequence[int], rater: str
) -> list[Task]:
    """Return the tasks of a rater in no order; an empty list if nothing can be judged."""
    chosen = set(settings)
    done = [clip for clip in clips if clip.status == "done" and clip.setting in chosen]
    return [Task(clip) for clip in done] if kind == "rating" else list(_pairs(done, rater))


def _pairs(clips: Sequence[Clip], rater: str) -> Iterator[Task]:
    cells: dict[tuple[int, int], list[Clip]] = {}
    for clip in clips:
        cells.setdefault((clip.prompt, clip.seed), []).append(clip)
    for cell in cells.values():
        for pair in itertools.combinations(cell, 2):
            first, second = sorted(pair, key=lambda clip: clip.key)
            side = draw(rater, "side", first.key, second.key) % 2
            yield Task(first, second, "first" if side else "second")


def questions_of_run(clips: Collection[Clip]) -> Mapping[Kind, Questions]:
    """Return what is asked about the clips of a run; about videos where there are none yet."""
    pictures = [clip.is_picture for clip in clips if clip.frames is not None]
    tables = [PICTURE_QUESTIONS] * any(pictures) + [QUESTIONS] * (not all(pictures) or not pictures)
    return {kind: {**tables[-1][kind], **tables[0][kind]} for kind in QUESTIONS}


def draw(*words: str | None) -> int:
    """Return a number that is as good as random, and the same for the same words."""
    text = "\n".join(word or "" for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def open_tasks(every: Sequence[Task], votes: Sequence[Vote], kind: Kind, rater: str) -> list[Task]:
    """Return the tasks with questions that the rater has not answered, in their order."""
    answered = {
        (vote.question, vote.first, vote.second)
        for vote in votes
        if (vote.rater, vote.kind) == (rater, kind)
    }

    def is_open(task: Task) -> bool:
        return any((question, *task.keys) not in answered for question in task.questions)

    return [task for task in every if is_open(task)]


def given_tasks(given: Sequence[Assignment], clips: Sequence[Clip], study: Study) -> list[Task]:
    """Return the tasks that a rater of a study was given, without those whose clips are gone."""
    known = {clip.key: clip for clip in clips if clip.status == "done"}
    checks = {check.name: check for check in study.checks}
    found = []
    for one in given:
        first, second = known.get(one.first), known.get(one.second or one.first)
        if first is None or second is None or (one.check and one.check not in checks):
            continue
        if one.check:
            copy = first if study.kind == "pair" else None
            left = one.left if study.kind == "pair" else None
            found.append(Task(first, copy, left, checks[one.check]))
        else:
            found.append(Task(first, second if one.second else None, one.left))
    return found


def open_given(
    given: Sequence[Task], votes: Sequence[Vote], study: Study, rater: str, checks: Collection[str]
) -> list[Task]:
    """Return which of the tasks that a rater was given are not answered, in their order.

    Args:
        checks: the names of the attention checks that the rater has answered.
    """
    real = [task for task in given if task.check is None]
    left = {id(task) for task in open_tasks(real, votes, study.kind, rater)}
    return [
        task
        for task in given
        if (id(task) in left if task.check is None else task.check.name not in checks)
    ]


def build_votes(
    task: Task, rater: str, answers: Mapping[str, str], seconds: float | None
) -> list[Vote]:
    """Return the votes that answers mean: 1 to 5 on a video; left, right or tie on a pair.

    Raises:
        ValueError: for questions that are not asked.
    """
    kind = check_questions(task, answers)
    return [
        Vote(rater, kind, question, *task.keys, resolve_side(answer, task), task.left, seconds)
        for question, answer in answers.items()
    ]


def check_questions(task: Task, answers: Mapping[str, str]) -> Kind:
    """Return the kind of a task.

    Raises:
        ValueError: for answers to questions that are not asked, or that no question has.
    """
    kind = task.kind
    if set(answers) != set(task.questions):
        raise ValueError(
            f"the questions to answer are {', '.join(task.questions)}, but got answers to"
            f" {', '.join(answers) or 'none'}. Answer these."
        )
    possible = _POSSIBLE[kind]
    if wrong := [answer for answer in answers.values() if answer not in possible]:
        raise ValueError(
            f"an answer must be one of {', '.join(possible)}, but got {wrong[0][:40]!r}. Choose"
            " one of these."
        )
    return kind


def resolve_side(answer: str, task: Task) -> str:
    """Return which of the two clips an answer to a pair means; a rating is what it is."""
    if task.left is None or answer not in _SIDES:
        return answer
    other = "second" if task.left == "first" else "first"
    return task.left if answer == "left" else other


# --- results --------------------------------------------------------------------------------------


def results(run: Run) -> PlainData:
    """Summarize the votes of a run, ready for JSON.

    Raters who failed the attention checks are left out of "rating" and "pair"; "with_all" has both
    with them, and the rule, where there are any.
    """
    every, counted = run.votes(), run.counted_votes()
    clips = judged.clips_of(run, every)
    found = _summarize(counted, clips)
    if len(counted) < len(every):
        found["with_all"] = {**_summarize(every, clips), "rule": RULE}
    return found


def _summarize(votes: Sequence[Vote], clips: Mapping[str, Clip]) -> PlainData:
    kinds = {kind: [vote for vote in votes if vote.kind == kind] for kind in QUESTIONS}
    return {
        "rating": _summarize_ratings(kinds["rating"], clips, questions_of_run(clips.values())),
        "pair": _summarize_duels(kinds["pair"], clips),
    }


def _summarize_ratings(
    votes: Sequence[Vote], clips: Mapping[str, Clip], questions: Mapping[Kind, Questions]
) -> PlainData:
    found: dict[str, dict[int, Any]] = {}
    for question in questions["rating"]:
        values: dict[int, list[tuple[float, int]]] = {}
        for vote in votes:
            if vote.question == question:
                clip = clips[vote.first]
                values.setdefault(clip.setting, []).append((float(vote.answer), clip.prompt))
        found[question] = {
            setting: asdict(
                intervals.rating(
                    [value for value, _ in own],
                    [prompt for _, prompt in own],
                    judged.RATING_SCALE,
                )
            )
            for setting, own in sorted(values.items())
        }
    return {
        **_count_votes(votes),
        "means": found,
        "agreement": _agreement(votes, questions["rating"], "ordinal"),
    }


def _summarize_duels(votes: Sequence[Vote], clips: Mapping[str, Clip]) -> PlainData:
    duels = judged.duels(votes, clips)
    return {
        **_count_votes(votes),
        "win_rates": {
            setting: asdict(found) for setting, found in preference.win_rates(duels).items()
        },
        "strengths": {
            setting: asdict(found) for setting, found in preference.bradley_terry(duels).items()
        },
        "matrix": [
            {"row": row, "column": column, **asdict(found)}
            for (row, column), found in head_to_head.meetings(duels).items()
        ],
        "agreement": _agreement(votes, QUESTIONS["pair"], "nominal"),
        "left": _share_of_left(votes),
    }


def _count_votes(votes: Sequence[Vote]) -> PlainData:
    raters: dict[str, int] = {}
    for vote in votes:
        raters[vote.rater] = raters.get(vote.rater, 0) + 1
    return {"votes": len(votes), "raters": raters}


def _share_of_left(votes: Sequence[Vote]) -> float | None:
    """Return how often the left one won, of all decided pairs; far from a half, raters favoured a
    side."""
    decided = [vote.answer == vote.left for vote in votes if vote.answer != "tie"]
    return sum(decided) / len(decided) if decided else None


_ANSWER_VALUES = {"first": 0.0, "second": 1.0, "tie": 2.0}


def _agreement(
    votes: Sequence[Vote], questions: ReadOnlyData, level: preference.Level
) -> PlainData:
    """Return Krippendorff's alpha per question, and Cohen's kappa of every two raters over all."""
    of: dict[str, dict[tuple[str, str | None], dict[str, float]]] = {
        question: {} for question in questions
    }
    for vote in votes:
        value = _ANSWER_VALUES[vote.answer] if vote.answer in _ANSWER_VALUES else float(vote.answer)
        of.setdefault(vote.question, {}).setdefault((vote.first, vote.second), {})[vote.rater] = (
            value
        )
    alpha = {
        question: preference.krippendorff_alpha(
            [list(unit.values()) for unit in units.values()], level
        )
        for question, units in of.items()
    }
    units = [unit for by_thing in of.values() for unit in by_thing.values()]
    return {"alpha": alpha, "kappa": list(_kappas(units, level))}


def _kappas(units: Sequence[Mapping[str, float]], level: preference.Level) -> Iterator[PlainData]:
    both: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for unit in units:
        for one, other in itertools.combinations(sorted(unit), 2):
            both.setdefault((one, other), []).append((unit[one], unit[other]))
    weights = "none" if level == "nominal" else "quadratic"
    for raters, values in sorted(both.items()):
        first, second = zip(*values, strict=True)
        kappa = preference.cohen_kappa(first, second, weights)
        yield {"raters": list(raters), "kappa": kappa, "count": len(values)}
