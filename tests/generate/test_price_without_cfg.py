"""Videos without CFG: it is known before a run, its price is said, and who leaves CFG on where a
model has learned to do without it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide.cli import result_lines
from skipguide.generate import record, run, without_cfg
from skipguide.generate.resolve import call_parameters, resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.models import loading, telling
from skipguide.models.settings import Lora
from support import oracle
from support.small_wan import save_wan
from support.text_encoders import text_components
from support.tiny import builders, tiny
from support.written import GUIDED

BY_GUIDER = ("HunyuanVideo15", "MotifVideo")
TINY: Any = {"height": 32, "width": 32, "num_frames": 7, "steps": 4, "max_sequence_length": 16}


def settings_of(**given: Any) -> GenerationSettings:
    return validate_settings({"prompt": "a red star", "layers": [1], "steps": 28, **given})


# --- whether there is CFG -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in GUIDED if not name.startswith(BY_GUIDER)])
def test_cfg_is_expected_where_the_pipeline_calls_for_u(name: str) -> None:
    """As its calls show: some rows, or some call, that another prompt does not change."""
    small = tiny(name)
    own = call_parameters(small.pipe).get("true_cfg_scale")  # `generate` leaves it at its default
    for scale, options in ((1.0, small.off), (4.5, {})):
        call = {**small.short, **(options if own is None else {"true_cfg_scale": own.default})}
        step, _ = oracle.calls_of_step(small, 0, [], call)
        settings = settings_of(guidance_scale=scale)
        assert without_cfg.expects_cfg(small.pipe, settings) == (step.u is not None)


@pytest.mark.parametrize("name", ["HunyuanVideo15Pipeline", "MotifVideoPipeline"])
def test_cfg_of_a_guider(name: str) -> None:
    pipe = builders()[name](torch.float32).pipe
    assert without_cfg.expects_cfg(pipe, settings_of(guidance_scale=4.5))
    assert without_cfg.expects_cfg(pipe, settings_of(guidance_scale=1.0)) is False
    pipe.guider.disable()
    assert without_cfg.expects_cfg(pipe, settings_of(guidance_scale=4.5)) is False


def test_cfg_of_an_unknown_pipeline_is_not_known() -> None:
    assert without_cfg.expects_cfg(object(), settings_of(guidance_scale=4.5)) is None  # type: ignore[arg-type]


# --- what is made to run without it ---------------------------------------------------------------

DISTILLED = [
    "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors",
    "Wan21_CausVid_14B_T2V_lora_rank32.safetensors",
    "Wan2.1_T2V_14B_FusionX_LoRA.safetensors",
    "Wan21_AccVid_T2V_14B_lora_rank32_fp16.safetensors",
    "Wan2.2-Lightning_T2V-A14B-4steps-lora_HIGH_fp16.safetensors",
    "chronoedit_distill_lora.safetensors",
    "animatediff_lightning_8step_diffusers.safetensors",
    "AnimateLCM_sd15_t2v_lora.safetensors",
    "hyvideo_FastVideo_LoRA-fp8.safetensors",
    "rcm_wan_720p.safetensors",
]
OTHERS = ["style.safetensors", "lora-2000-steps.safetensors", "step_500.safetensors",
          "hyperreal.safetensors", "calcmouse.safetensors", "cat-40steps.safetensors"]  # fmt: skip


@pytest.mark.parametrize("file", DISTILLED)
def test_a_few_step_lora_beside_cfg_is_told_of(file: str) -> None:
    pipe = tiny("WanPipeline").pipe
    given = settings_of(guidance_scale=5.0, steps=50).model_copy(
        update={"lora": (Lora(path=f"loras/{file}", scale=0.8),)}
    )
    note = without_cfg.distilled_note(pipe, given)
    assert note is not None
    assert note.startswith(
        f"{file} is made to run without CFG, as its name says, but guidance_scale is 5, which"
        " doubles the passes of its 50 steps"
    )
    assert "Set --guidance-scale 1, and --steps" in note
    for change in ({"guidance_scale": 1.0}, {"lora": (Lora(path=file, scale=0.0),)}):
        assert without_cfg.distilled_note(pipe, given.model_copy(update=change)) is None


@pytest.mark.parametrize("file", OTHERS)
def test_other_loras_are_not(file: str) -> None:
    pipe = tiny("WanPipeline").pipe
    given = settings_of(guidance_scale=5.0).model_copy(update={"lora": (Lora(path=file),)})
    assert without_cfg.distilled_note(pipe, given) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "Lightricks/LTX-Video-0.9.8-13B-distilled"}, "LTX-Video-0.9.8-13B-distilled"),
        ({"model": "m", "component": ("transformer=w/wan-dmd.gguf",)}, "wan-dmd.gguf"),
        ({"model": "some-distilled-folder/wan"}, None),
    ],
)
def test_a_distilled_model_beside_cfg(given: dict[str, Any], said: str | None) -> None:
    settings = settings_of(guidance_scale=3.0).model_copy(update=given)
    note = without_cfg.distilled_note(tiny("LTXPipeline").pipe, settings)
    assert note is None if said is None else note is not None and note.startswith(f"{said} is made")


def test_embedded_guidance_of_a_distilled_model_is_not_told_of() -> None:
    settings = settings_of(guidance_scale=6.0).model_copy(update={"model": "FastHunyuan"})
    assert without_cfg.distilled_note(tiny("HunyuanVideoPipeline").pipe, settings) is None


# --- in a run -------------------------------------------------------------------------------------


def test_the_price_is_told_before_the_first_step(
    pipe: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling.tell.cache_clear()
    told: list[list[str]] = []
    for scale in (1.0, 4.5):
        given = {"prompt": "a red star", "layers": 2, "guidance_scale": scale, **TINY}
        settings = resolve_settings(validate_settings(given), pipe)
        result = run.generate(pipe, settings, lambda step: told.append([*caplog.messages]))
        assert result.passes_per_step == (1.25 if scale == 1 else 2.25)
        assert result.notes == ()
    assert told == [["note: no CFG here: 1 + 0.25 passes a step"]] * 8


def test_a_budget_without_cfg(pipe: Any) -> None:
    given = {"prompt": "a red star", "layers": 2, "guidance_scale": 1.0, "budget": 1.2, **TINY}
    result = run.generate(pipe, resolve_settings(validate_settings(given), pipe))
    assert 1 < result.passes_per_step <= 1.2
    (note,) = result.notes
    assert note.startswith("budget 1.2, no CFG: term 0 at 3 of 4 steps; 1.19 passes a step")


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_a_preset_with_cfg_beside_a_few_step_lora(tmp_path: Path) -> None:
    """Nobody wrote a guidance scale: it is the pipeline's default."""
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline

    from support.loras import make_lora

    wan = save_wan(tmp_path / "wan")
    lora = make_lora(WanPipeline.from_pretrained(wan), tmp_path / "x_4steps_lora.safetensors")
    size = {"height": 32, "width": 32, "num_frames": 5, "steps": 2}
    settings = validate_settings(
        {"prompt": "p", "model": str(wan), "lora": [str(lora)], "layers": [1], **size}
    )
    made = loading.load(settings)
    result = run.generate(made, resolve_settings(settings, made))
    assert [note[:38] for note in result.notes] == ["x_4steps_lora.safetensors is made to r"]


def test_embedded_guidance_is_called_so(tmp_path: Path) -> None:
    small = builders()["HunyuanVideoPipeline"](torch.float32)
    small.pipe.register_modules(**text_components("hunyuan", small.call, tmp_path))
    loading.restore_text_model(small.pipe)
    sizes = {"height": 16, "width": 16, "num_frames": 5, "steps": 4}
    settings = resolve_settings(
        settings_of(layers=["dual:1"], guidance_scale=6.0, **sizes), small.pipe
    )
    result = run.generate(small.pipe, settings)
    made = record.build_record(settings, result, {})
    assert made["embedded_guidance"] is True
    assert ": no CFG, embedded guidance 6 + STG 1 (residual dual:1);" in result_lines.format_used(
        settings, made
    )
    assert result.passes_per_step == pytest.approx(1.6)
