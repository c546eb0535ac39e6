"""Which blocks a model of ComfyUI has, in the order in which they run: one row of data per model class.

A stack whose class honours ComfyUI's block replacement patches (`patches_replace["dit"]`) is weakened through them. For
one that does not, stand-ins take the places of its blocks for the length of a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

BOTH = ("img", "txt")


@dataclass(frozen=True)
class Stack:
    """Blocks that run one after the other.

    Args:
        name: as in "single:3".
        attribute: of the model, the ModuleList or ModuleDict of the blocks.
        patch: the name of its block replacement patches; "" for none.
        attention: the self-attention within a block; "" where all attention in the block is self-attention.
        streams: what a block changes of the arguments of its patch.
    """

    name: str
    attribute: str
    patch: str = ""
    attention: str = ""
    streams: tuple[str, ...] = ("img",)


@dataclass(frozen=True)
class Place:
    """One block of a model."""

    stack: Stack
    index: int
    position: int  # among all blocks of the model
    block: nn.Module

    @property
    def word(self) -> str:
        """As a person writes it: single:3."""
        return f"{self.stack.name}:{self.index}"


WAN = (Stack("block", "blocks", "double_block", "self_attn"),)
FLUX = (
    Stack("double", "double_blocks", "double_block", streams=BOTH),
    Stack("single", "single_blocks", "single_block"),
)

# The classes of `model.diffusion_model`.
MODELS: dict[str, tuple[Stack, ...]] = {
    "WanModel": WAN,  # Wan 2.1 and 2.2
    "VaceWanModel": WAN,
    "CameraWanModel": WAN,
    "HumoWanModel": WAN,
    "AnimateWanModel": WAN,
    "WanModel_S2V": WAN,
    "LTXVModel": (Stack("block", "transformer_blocks", "double_block", "attn1"),),
    "AsymmDiTJoint": (Stack("block", "blocks", "double_block", "attn", BOTH),),  # Mochi
    "HunyuanVideo": FLUX,  # HunyuanImage too
    "GeneralDIT": (Stack("block", "blocks", attention="blocks.0"),),  # Cosmos 1
    "MiniTrainDIT": (Stack("block", "blocks", attention="self_attn"),),  # Cosmos Predict 2
    "Flux": FLUX,
    "Chroma": FLUX,
    "OpenAISignatureMMDITWrapper": (Stack("block", "joint_blocks", "double_block", streams=BOTH),),  # SD3
    "QwenImageTransformer2DModel": (Stack("block", "transformer_blocks", "double_block", "attn", BOTH),),
    "MMDiT": (  # AuraFlow
        Stack("double", "double_layers", "double_block", streams=BOTH),
        Stack("single", "single_layers", "single_block"),
    ),
}


def stacks_of(model: nn.Module) -> tuple[Stack, ...]:
    """The row of a model.

    Raises:
        ValueError: for a class without a row.
    """
    name = type(model).__name__
    if name not in MODELS:
        raise ValueError(
            f"skip guidance needs a model whose blocks it knows, but got a {name}. Use one of: {', '.join(MODELS)}."
        )
    return MODELS[name]


def places_of(model: nn.Module) -> list[Place]:
    """All blocks of a model, in the order in which they run.

    Raises:
        ValueError: for a class without a row.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    found: list[Place] = []
    for stack in stacks_of(model):
        for index, block in enumerate(blocks_of(model, stack).values()):
            found.append(Place(stack, index, len(found), block))
    return found


def blocks_of(model: nn.Module, stack: Stack) -> dict[str, Any]:
    """The blocks of a stack, by their names in the module that holds them; assigning to it puts others there."""
    return getattr(model, stack.attribute)._modules
