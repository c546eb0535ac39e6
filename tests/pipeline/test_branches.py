"""guide(..., parallel=group): several processes make what one makes, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support import branches, parallel


def check_equal(names: list[str], world: int, folder: Path) -> None:
    with parallel.processes(world, folder, branches.divided, names) as found:
        expected = branches.alone(names)
    for rank, own in enumerate(found):
        different = [name for name in names if not torch.equal(own[name], expected[name])]
        assert not different, (rank, different)


@pytest.mark.parametrize("world", [2, 3])
def test_equal_to_one_process(world: int, tmp_path: Path) -> None:
    two_passes = [name for name in branches.KEY_CASES if "without CFG" in name]
    check_equal([*branches.KEY_CASES] if world < 4 else two_passes, world, tmp_path)
