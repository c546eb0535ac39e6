"""skipguide: Spatiotemporal Skip Guidance for diffusers video pipelines, exact and prefix-shared.

    from skipguide import STG, guide

    with guide(pipe, STG(layers=[34], scale=1.0)):
        video = pipe("a red fox in the snow").frames[0]

Importing this package loads neither torch nor diffusers; the first use of a name does.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipguide.method.cfg_rules import (
        APG,
        C2FG,
        FDG,
        MAMBOG,
        TAG,
        TCFG,
        APGMix,
        CFGReuse,
        CFGZero,
        Interval,
        RectifiedCFG,
    )
    from skipguide.method.loras import WithLoRA, WithoutLoRA
    from skipguide.method.restart import Restart
    from skipguide.method.terms import NAG, SLG, STG, Bin, Modality, Random, Schedule
    from skipguide.models.context_parallel import enable_context_parallel
    from skipguide.pipeline.guide import Guide, guide
    from skipguide.tuning.api import tune

__version__ = "0.1.0"
__all__ = [
    "APG", "C2FG", "FDG", "MAMBOG", "NAG", "SLG", "STG", "TAG", "TCFG", "APGMix", "Bin", "CFGReuse",
    "CFGZero", "Guide", "Interval", "Modality", "Random", "RectifiedCFG", "Restart", "Schedule",
    "WithLoRA", "WithoutLoRA", "__version__", "enable_context_parallel", "guide", "tune",
]  # fmt: skip

_RULES = (
    "APG", "APGMix", "C2FG", "CFGReuse", "CFGZero", "FDG", "Interval", "MAMBOG", "RectifiedCFG",
    "TAG", "TCFG",
)  # fmt: skip
_HOME = {
    **dict.fromkeys(_RULES, "skipguide.method.cfg_rules"),
    "STG": "skipguide.method.terms",
    "SLG": "skipguide.method.terms",
    "NAG": "skipguide.method.terms",
    "Modality": "skipguide.method.terms",
    "Bin": "skipguide.method.terms",
    "Random": "skipguide.method.terms",
    "Schedule": "skipguide.method.terms",
    "Restart": "skipguide.method.restart",
    "WithLoRA": "skipguide.method.loras",
    "WithoutLoRA": "skipguide.method.loras",
    "guide": "skipguide.pipeline.guide",
    "Guide": "skipguide.pipeline.guide",
    "tune": "skipguide.tuning.api",
    "enable_context_parallel": "skipguide.models.context_parallel",
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
