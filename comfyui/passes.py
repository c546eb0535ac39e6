"""One pass of a model for some prompts, with changes in some of its blocks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key  # pyright: ignore[reportMissingImports]

from . import blocks, foreign
from .models import BlockChain, block_chain

Tensor = torch.Tensor
Options = dict[str, Any]
KEY = "skipguide"
POSITIVE, NEGATIVE = "positive", "negative"  # as guiders call their prompts


@dataclass(frozen=True)
class Row:
    """The rows of one prompt in a call of the model.

    Args:
        place: of the prompt among those that ComfyUI was asked for.
        name: what the guider calls it; None if it is none of its prompts.
        uuid: of the conditioning, of which a prompt may have several.
    """

    place: int
    name: str | None
    uuid: Any

    @property
    def key(self) -> tuple[str | None, Any]:
        """Return what is the same for these rows in each pass of a step."""
        return self.name, self.uuid


@dataclass(frozen=True)
class Around:
    """Tell a pass which nodes of others can change how its model is called.

    Args:
        cached: whether a cache may take the place of a call.
        suspected: names of other nodes' code, for an error.
        warn: what is told to the user.
    """

    cached: bool = False
    suspected: str = ""
    warn: Callable[[str], None] = lambda _text: None


COMPILED = (
    "the model is compiled as a whole: guided steps run it uncompiled. To compile them too, use a"
    " node that compiles the blocks one by one, such as KJNodes' TorchCompileModelAdvanced with"
    " compile_transformer_blocks_only"
)
Parts = Callable[[BlockChain, Sequence[Row]], list[blocks.Part]]


def names_of(conds: Sequence[Any], prompts: Mapping[str, Any]) -> list[str | None]:
    """Return what the guider calls the prompts of a pass, in their order.

    Core gives a prompt that has no area copies of the areas of the others, with their uuids, behind
    its own. So a prompt is known as the object that it is, or by its uuids in their order: context
    windows make a new list of copies.

    Args:
        conds: as calc_cond_batch takes them.
        prompts: of the guider.
    """
    return [_name_of(cond, prompts) for cond in conds]


def _name_of(cond: Any, prompts: Mapping[str, Any]) -> str | None:
    if not cond:
        return None
    same = [name for name, prompt in prompts.items() if prompt is cond]
    uuids = [entry["uuid"] for entry in cond]
    alike = [
        name
        for name, prompt in prompts.items()
        if prompt and [entry["uuid"] for entry in prompt] == uuids
    ]
    return next(iter([*same, *alike]), None)


def estimate(args: dict[str, Any], conds: Sequence[Any], wrapper: Any) -> Tensor:
    """Return the estimate for the first of some prompts, all of which are run.

    Args:
        args: as ComfyUI calls a function behind CFG.
        wrapper: as `model_wrapper` returns it.
    """
    options = with_model_wrapper(args["model_options"], wrapper)
    return comfy.samplers.calc_cond_batch(
        args["model"], list(conds), args["input"], args["sigma"], options
    )[0]


def model_pass(args: dict[str, Any], changes: Any, identities: Sequence[int] = ()) -> Tensor:
    """Return the estimate of a pass with the positive prompt and some blocks changed.

    Args:
        args: as ComfyUI calls a function behind CFG.
        changes: a function from what identifies the rows to what the blocks do.
        identities: as for `blocks.Part`.
    """

    def parts(_chain: BlockChain, rows: Sequence[Row]) -> list[blocks.Part]:
        return [blocks.Part(changes([row.key for row in rows]), identities)]

    return estimate(args, [args["cond"]], model_wrapper(args["model"], [POSITIVE], parts))


def shapes_of(args: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the shapes of the video and of the sound where ComfyUI packs both into one tensor.

    Args:
        args: as ComfyUI calls a function behind CFG.
    """
    known = args["cond"][0].get("model_conds", {}).get("latent_shapes") if args["cond"] else None
    return [tuple(shape) for shape in known.cond] if known is not None else []


def sizes_of(args: dict[str, Any]) -> list[int]:
    """Return how many numbers of a packed row are the video's and how many the sound's."""
    return [math.prod(shape[1:]) for shape in shapes_of(args)]


def outputs_of(args: dict[str, Any], estimate: Tensor) -> list[Tensor]:
    """Return the video of an estimate, and the sound if it has one, in their own shapes."""
    shapes, sizes = shapes_of(args), sizes_of(args)
    if len(shapes) < 2:
        return [estimate]
    parts = zip(estimate.split(sizes, -1), shapes, strict=True)
    return [part.reshape(len(estimate), *shape[1:]) for part, shape in parts]


def origin_of(args: dict[str, Any]) -> Tensor:
    """Return a x of x_0 = a x + b F: the estimate where the model predicts zero."""
    x = args["input"]
    return args["model"].model_sampling.calculate_denoised(args["sigma"], torch.zeros_like(x), x)


def with_model_wrapper(model_options: Options, wrapper: Any) -> Options:
    """Return model_options with a wrapper of BaseModel.apply_model, the innermost one."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, wrapper, options, is_model_options=True)
    return options


def model_wrapper(
    model: Any, names: Sequence[str | None], parts: Parts, around: Around = Around()
) -> Any:
    """Return a wrapper of BaseModel.apply_model, which is called with rows of one or more prompts.

    Args:
        model: the BaseModel that is sampled.
        names: of the prompts of the pass, as `names_of` returns them.
        parts: a function from the blocks and the rows of a call to what is changed in it, the
            innermost first.
        around: what other nodes have there.
    """
    own = block_chain(model.diffusion_model)  # before other nodes change it for the call

    def wrapper(
        executor: Any, x: Tensor, t: Tensor, concat: Any, cross: Any, control: Any,
        options: Options, **extra: Any,
    ) -> Tensor:  # fmt: skip
        called = executor.class_obj  # or its copy on another GPU
        chain = own if called is model else block_chain(called.diffusion_model)
        numbered = zip(options["cond_or_uncond"], options["uuids"], strict=True)
        rows = [Row(place, names[place], uuid) for place, uuid in numbered]
        changed = parts(chain, rows)
        hooked = {position for part in changed for position in part.identities}
        with contextlib.ExitStack() as stack:
            if stack.enter_context(foreign.uncompiled(called, chain, hooked)):
                around.warn(COMPILED)
            for part in changed:
                attached = blocks.attached(
                    chain, part.changes, options, part.identities, part.rows, around.cached,
                    around.suspected,
                )  # fmt: skip
                options = stack.enter_context(attached)
            return executor(x, t, concat, cross, control, options, **extra)

    return wrapper
