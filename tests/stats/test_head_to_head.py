"""The matrix of pairwise wins, against closed forms and a count by hand."""

from __future__ import annotations

import pytest

from skipguide.stats.head_to_head import meetings
from skipguide.stats.preference import Duel


def test_wins_ties_and_losses_are_counted_from_either_side() -> None:
    duels = [
        Duel(1, 2, 1.0, "a"), Duel(2, 1, 1.0, "a"), Duel(1, 2, 0.5, "b"), Duel(2, 1, 0.0, "b"),
        Duel(3, 1, 0.5, "a"),
    ]  # fmt: skip
    found = meetings(duels)
    assert set(found) == {(1, 2), (2, 1), (1, 3), (3, 1)}  # 2 and 3 never met
    one = found[1, 2]
    assert (one.wins, one.ties, one.losses, one.share.count) == (2, 1, 1, 4)
    assert one.share.value == pytest.approx(2.5 / 4)
    other = found[2, 1]
    assert (other.wins, other.ties, other.losses) == (1, 1, 2)
    assert other.share.value == pytest.approx(1 - 2.5 / 4)
    assert one.share.low is None
    assert "5 different prompts" in (one.share.reason or "")


def test_the_interval_of_all_won_is_clopper_and_pearsons() -> None:
    """Of n wins in n the exact interval is 0.025 ** (1 / n) to 1."""
    found = meetings([Duel(1, 2, 1.0, prompt) for prompt in range(6)])
    assert found[1, 2].share.low == pytest.approx(0.025 ** (1 / 6))
    assert found[1, 2].share.high == 1.0
    assert found[2, 1].share.low == 0.0
    assert found[2, 1].share.high == pytest.approx(1 - 0.025 ** (1 / 6))


def test_votes_on_one_prompt_do_not_narrow_the_interval_as_votes_on_many() -> None:
    """All votes of a prompt are alike here, so that ten of them say as much as one."""

    def width(votes: int) -> float:
        duels = [Duel(1, 2, float(prompt % 2), prompt) for prompt in range(8) for _ in range(votes)]
        share = meetings(duels)[1, 2].share
        assert share.low is not None
        assert share.high is not None
        return share.high - share.low

    assert width(10) > width(1)  # that the votes of a prompt are alike is itself uncertain
    independent = 2 * 1.96 * (0.25 / 80) ** 0.5
    assert width(10) > 3 * independent
