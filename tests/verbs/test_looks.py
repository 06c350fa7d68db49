"""Models that do not look at images are refused where they would judge or be aligned, with the numbers; and told of where they are made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from keel.core.errors import SelfTestError
from keel.doctor import doctor
from keel.models.config import ModelOptions
from keel.models.loading import HeadName, load_model
from keel.models.parts import parts_of
from keel.verbs.eval_reward.run import run_eval_reward
from keel.verbs.run import run_verb

SHORT = ("loop.steps=1", "loop.eval_every=0", "loop.eval_at_start=false", "settings.threads=1", "model_options.precision=fp32")
SCENES = Path("recipes/tiny/scenes").absolute()


def made(folder: Path, blind: bool, *heads: HeadName, std: float = 0.3) -> str:
    """A model that knows a lot of its answers; a ``blind`` one gets nothing out of its projector."""
    loaded = load_model(f"tiny:llava?seed=1&std={std}", ModelOptions(precision="fp32"), heads=frozenset(heads), new_heads=True)
    if blind:
        part_of = parts_of(loaded.model.module)
        with torch.no_grad():
            for name, p in loaded.model.module.named_parameters():
                if part_of[name] == "projector":
                    p.zero_()
    loaded.model.save(folder, loaded.tokenizer, loaded.processor)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for blind, name in ((False, "sees"), (True, "blind")):
        made(folder / name, blind)
        made(folder / f"reward-{name}", blind, "score")
    return folder


@pytest.mark.parametrize("verb", ["prefer", "rl"])
def test_a_blind_policy_is_refused_before_it_is_aligned(verb: str, folder: Path, proofs: None, tmp_path: Path) -> None:
    recipe = Path(f"recipes/tiny_vlm_{'dpo' if verb == 'prefer' else 'grpo'}.yaml")
    with pytest.raises(
        SelfTestError, match=r"'policy-reads-image' failed: the image moves the output by 0 when it is swapped, 0 when"
    ) as e:
        run_verb(verb, recipe, [*SHORT, f"model={folder / 'blind'}", f"run_dir={tmp_path / 'a'}"])
    assert "data.without_image" in e.value.message
    assert "skip_self_test=[policy-reads-image]" in e.value.hint
    for model, more in (("blind", ("settings.skip_self_test=[policy-reads-image]",)), ("sees", ())):
        assert run_verb(verb, recipe, [*SHORT, *more, f"model={folder / model}", f"run_dir={tmp_path / model}"])
    tests = [json.loads(line) for line in (tmp_path / "sees" / "events.jsonl").read_text().splitlines() if "self_test" in line]
    assert any("policy-reads-image" in row.get("checks", ()) for row in tests)


def test_a_blind_reward_model_is_refused_before_it_judges(folder: Path, proofs: None, tmp_path: Path) -> None:
    def rewards(name: str) -> str:
        return f"rewards=[{{type: model, name: m, path: {folder / f'reward-{name}'}}}]"

    recipe = Path("recipes/tiny_vlm_grpo.yaml")
    with pytest.raises(SelfTestError, match=r"'reward-reads-image' failed: the image moves the output by 0 when it is swapped"):
        run_verb("rl", recipe, [*SHORT, rewards("blind"), f"run_dir={tmp_path / 'a'}"])
    assert run_verb("rl", recipe, [*SHORT, rewards("sees"), f"run_dir={tmp_path / 'b'}"])


def test_reward_training_takes_a_new_head_and_tells_of_a_blind_model(folder: Path, proofs: None, tmp_path: Path) -> None:
    """What was just begun is not refused for that; what comes out blind is told."""
    recipe = Path("recipes/tiny_vlm_reward.yaml")
    summary = run_verb("reward", recipe, [*SHORT, "model=tiny:llava?seed=1", f"run_dir={tmp_path / 'a'}"])
    assert summary is not None
    assert set(summary["looks"]["moved"]) == {"swapped", "greyed", "blurred"}
    assert set(summary["looks"]["right"]) == {"shown", "swapped", "greyed", "blurred"}
    assert (summary["looks"]["limit"], summary["looks"]["unit"]) == (0.1, "standard deviations of scores")
    frozen = ("model_options.train=[language]", "settings.skip_self_test=[reward-reads-image]")
    blind = run_verb("reward", recipe, [*SHORT, *frozen, f"model={folder / 'blind'}", f"run_dir={tmp_path / 'b'}"])
    assert blind is not None
    assert blind["looks"]["blind"]
    told = [json.loads(line) for line in (tmp_path / "b" / "events.jsonl").read_text().splitlines()]
    assert any(row["kind"] == "warning" and "the reward model is blind" in row["message"] for row in told)


def test_eval_reward_has_the_numbers(folder: Path, proofs: None) -> None:
    for name in ("sees", "blind"):
        found = run_eval_reward(str(folder / f"reward-{name}"), str(SCENES / "pairs.jsonl"), "", "", ["model_options.precision=fp32"])
        (finding,) = [f for f in found["diagnosis"] if f["name"] == "blind to the image"]
        assert finding["present"] == found["looks"]["image"]["blind"] == (name == "blind")
        assert set(found["looks"]["image"]["moved"]) == {"swapped", "greyed", "blurred"}
        right = found["looks"]["image"]["right"]
        assert (right["shown"] == right["swapped"] == right["greyed"]) == (name == "blind") or name == "sees"


def test_the_doctor_looks_too(folder: Path, proofs: None) -> None:
    settings = ["longest=32", "model_options.precision=fp32"]
    rows = {row["check"]: row for row in doctor(str(folder / "sees"), settings)["checks"]}
    assert rows["reads-image"]["passed"]
    with pytest.raises(SelfTestError, match="reads-image failed"):
        doctor(str(folder / "blind"), settings)
