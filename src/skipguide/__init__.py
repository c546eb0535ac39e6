"""skipguide: Spatiotemporal Skip Guidance for diffusers video pipelines, exact and prefix-shared.

    from skipguide import STG, guide

    with guide(pipe, STG(layers=[34], scale=1.0)):
        video = pipe("a red fox in the snow").frames[0]

Importing this package loads neither torch nor diffusers; the first use of a name does.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipguide.method.cfg_rules import APG, TCFG, CFGReuse, CFGZero, Interval
    from skipguide.method.restart import Restart
    from skipguide.method.terms import SLG, STG, Bin, Random, Schedule
    from skipguide.pipeline.guide import Guide, guide
    from skipguide.tuning.api import tune

__version__ = "0.1.0"
__all__ = [
    "APG", "SLG", "STG", "TCFG", "Bin", "CFGReuse", "CFGZero", "Guide", "Interval", "Modality",
    "Random", "Restart", "Schedule", "__version__", "guide", "tune",
]  # fmt: skip

_HOME = {
    "STG": "skipguide.method.terms",
    "SLG": "skipguide.method.terms",
    "Modality": "skipguide.method.terms",
    "Bin": "skipguide.method.terms",
    "Random": "skipguide.method.terms",
    "Schedule": "skipguide.method.terms",
    "Restart": "skipguide.method.restart",
    "APG": "skipguide.method.cfg_rules",
    "CFGZero": "skipguide.method.cfg_rules",
    "TCFG": "skipguide.method.cfg_rules",
    "CFGReuse": "skipguide.method.cfg_rules",
    "Interval": "skipguide.method.cfg_rules",
    "guide": "skipguide.pipeline.guide",
    "Guide": "skipguide.pipeline.guide",
    "tune": "skipguide.tuning.api",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(
            f"module 'skipguide' has no attribute {name!r}; its public names are"
            f" {', '.join(__all__)}"
        )
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
