"""A pipeline whose guider has a formula of its own, such as APG or CFG-Zero* of diffusers.

A constant shift of u and c does not pass through such a formula. So the guider gets them as they
are, and the push, and the rescaling, are added to what its `forward` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from skipguide.method.protocols import Guider
from skipguide.pipeline.restarting import MethodWrapper

Tensor = torch.Tensor


class GuiderFormula:
    """Stands in front of the `forward` of a pipeline's guider, until `remove()`.

    Args:
        add: (c, what the guider made of c and u) -> D.
    """

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]):
        self._add, self._guider = add, None

    def attach(self, guider: Guider) -> None:
        """Put this in front of the guider of the step under way, unless it is there already."""
        if self._guider is not guider:
            self.remove()
            guider.forward = MethodWrapper(guider.forward, self._forward)
            self._guider = guider

    def remove(self) -> None:
        """Give the guider its own method back."""
        if self._guider is not None:
            delattr(self._guider, "forward")
            self._guider = None

    def _forward(
        self, real: Callable[..., Any], pred_cond: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        output = real(pred_cond, *args, **kwargs)
        return type(output)(**{**output, "pred": self._add(pred_cond, output["pred"])})
