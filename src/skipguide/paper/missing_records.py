"""The reasons why there is no report: no records, others than those asked for, no matplotlib."""

from __future__ import annotations

import importlib.util

from skipguide.paper import models
from skipguide.paper.run import Order


def check_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "the report needs matplotlib for its figures, but it is not installed. Run `pip install"
            " 'skipguide[report]'`."
        )


def describe(order: Order) -> str:
    """Say which records a report needs, and which others there are."""
    begun = [
        name
        for name in order.models
        if (place := order.locate_records(name)) and place[0].folder.is_dir()
    ]
    if begun:
        return (
            f"the report needs clips, but of {' and '.join(begun)} there are none yet, at most the"
            f" real ones that they will be compared with. Run skipguide paper run --folder"
            f" {order.folder}"
        )
    there = sorted(
        f"{path.parent.name} {path.name.partition('-')[2]}"  # after the version of the weights
        for model in models.MODELS
        for path in (order.folder / model).glob("*-steps-*")
    )
    what = f"{' and '.join(order.models)} in {order.dtype}" + (
        f" with {order.steps} steps" if order.steps else ""
    )
    if not there:
        return (
            f"the report needs records of {what}, but {order.folder} has none. Run skipguide paper"
            f" run --folder {order.folder}"
        )
    return (
        f"the report needs records of {what}, but {order.folder} has those of {', '.join(there)}."
        " Pass the same --steps, --dtype and --weights as to skipguide paper run."
    )
