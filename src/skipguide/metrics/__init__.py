"""Metrics of videos: pure functions of features, and `evaluate`, which reads and measures videos.

    from skipguide.metrics import evaluate

    result = evaluate("generated/", reference="real/", metrics=["fvd:judge", "vendi:judge"])

The functions are in frechet, inception, kernel, neighbours and vendi; catalog lists all metrics.
Importing this package does not load torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipguide.metrics.evaluation import evaluate
    from skipguide.metrics.results import Result, merge

__all__ = ["Result", "evaluate", "merge"]

_HOME = {"evaluate": "evaluation", "Result": "results", "merge": "results"}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; its public names are {__all__}"
        )
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
