"""The public face: what a notebook does with ``import keel``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import keel
from keel import api
from keel.core.errors import ConfigError, DataError
from keel.rewards.text import TextSource


@pytest.fixture(scope="module")
def policy(proofs: None) -> keel.Policy:
    return keel.load("tiny:llama?seed=1", precision="fp32")


def of_length(prompt: keel.Prompt, answer: str) -> float:
    return float(len(answer))


def test_the_names_are_those_of_the_api_and_import_without_torch() -> None:
    assert keel.__all__ == api.__all__
    assert all(getattr(keel, name) is getattr(api, name) for name in keel.__all__)
    code = "import sys, keel; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = keel.trian


def test_a_prompt_is_known_by_its_content(policy: keel.Policy) -> None:
    one, same, other = (
        policy.prompt("How many?", truth="3"),
        policy.prompt([{"role": "user", "content": "How many?"}]),
        policy.prompt("Who?"),
    )
    assert one.prompt_id == same.prompt_id != other.prompt_id
    assert one.meta == {"truth": "3"}
    assert "How many?" in policy.renderer.decode(policy.renderer.prompt(one).tokens_T)


def test_the_system_prompt_is_part_of_what_the_model_reads(proofs: None) -> None:
    polite = keel.load("tiny:llama?seed=1", system="Be polite.", precision="fp32")
    assert "Be polite." in polite.renderer.decode(polite.renderer.prompt(polite.prompt("Who?")).tokens_T)


def test_the_same_seed_and_step_draw_the_same_answers(policy: keel.Policy) -> None:
    sampler, asked = policy.sampler(), [policy.prompt("Who?"), policy.prompt("How many?")]
    first, again, later = (keel.sample(sampler, policy, asked, 3, step=step, max_tokens=6) for step in (1, 1, 2))
    texts = [[r.text for g in groups for r in g.rollouts] for groups in (first, again, later)]
    assert texts[0] == texts[1] != texts[2]
    assert [len(g.rollouts) for g in first] == [3, 3]
    assert all(len(r) <= 6 for g in first for r in g.rollouts)


def test_scores_are_summed_with_their_weights_and_failures_count_for_nothing(policy: keel.Policy) -> None:
    groups = keel.sample(policy.sampler(), policy, [policy.prompt("Who?")], 4, max_tokens=6)
    lengths = torch.tensor([float(len(r.text)) for r in groups[0].rollouts])
    (scored,) = keel.score(groups, of_length, keel.Reward(TextSource("half", of_length), 0.5))
    torch.testing.assert_close(scored.rewards_G, 1.5 * lengths)
    assert keel.mean_reward([scored]) == pytest.approx(1.5 * float(lengths.mean()))
    (failed,) = keel.score(groups, lambda prompt, answer: float("nan"))
    assert not failed.valid_G.any()


@pytest.mark.parametrize("kl", [{"beta": 0.2}, {"estimator": "reverse_kl"}])
def test_a_teacher_is_followed(proofs: None, kl: dict[str, object]) -> None:
    """Whole distributions, no rewards: what is trained falls."""
    policy, teacher = (keel.load(f"tiny:llama?seed={seed}&std=0.1", precision="fp32") for seed in (1, 2))
    gkd, learner, sampler = keel.algorithm("gkd", kl=kl), policy.learner(lr=3e-3, updates=6, schedule="constant"), policy.sampler()
    reference = policy.reference(learner, teacher)
    found = []
    for step in range(6):
        groups = keel.score(keel.sample(sampler, policy, [policy.prompt("Who?")], 8, step=step, max_tokens=8), lambda prompt, answer: 0.0)
        units, _ = keel.credit(groups, gkd, learner, reference)
        found.append(keel.update(learner, sampler, units, gkd, step + 1)["objective/divergence"])
    assert found[-1] < 0.9 * found[0]
    with pytest.raises(ValueError, match="has a KL to a reference"):
        keel.credit(groups, gkd, learner)


def test_what_an_algorithm_misses_is_said(policy: keel.Policy) -> None:
    learner = policy.learner(lr=1e-3, updates=2)
    groups = keel.score(keel.sample(policy.sampler(), policy, [policy.prompt("Who?")], 2, max_tokens=4), of_length)
    with pytest.raises(ValueError, match="has a KL to a reference"):
        keel.credit(groups, keel.algorithm("grpo"), learner)
    with pytest.raises(ValueError, match="needs a critic"):
        keel.credit(groups, keel.algorithm("ppo"), learner)
    with pytest.raises(ConfigError, match="compares the answers to one prompt"):
        keel.algorithm("grpo", samples=1)


def test_mistakes_of_a_call_say_what_to_do(policy: keel.Policy) -> None:
    with pytest.raises(ConfigError, match="name: 'grppo' is none of: grpo, "):
        keel.algorithm("grppo")
    with pytest.raises(ConfigError, match=r"clip.lo: unknown key. Did you mean clip.low\?"):
        keel.algorithm("grpo", clip={"lo": 0.1})
    with pytest.raises(ConfigError, match="lr: must be greater than 0, got the number -1"):
        policy.learner(lr=-1, updates=1)
    sampler, asked = policy.sampler(), [policy.prompt("Who?")]
    with pytest.raises(ConfigError, match=r"no setting 'max_token'\n  hint: settings are: max_tokens, "):
        keel.sample(sampler, policy, asked, 2, max_token=3)
    with pytest.raises(ConfigError, match="no setting 'stop_tokens'"):
        keel.sample(sampler, policy, asked, 2, stop_tokens=(3,))
    with pytest.raises(DataError, match=r"a prompt is str, not Prompt: 'Who\?'\n  hint: make it with policy.prompt"):
        keel.sample(sampler, policy, ["Who?"], 2, max_tokens=3)  # type: ignore[list-item]


def test_imitation_makes_the_answer_likelier(proofs: None) -> None:
    policy = keel.load("tiny:llama?seed=2", precision="fp32", lora=4)
    learner = policy.learner(lr=3e-3, updates=6, schedule="constant", warmup_ratio=0.0)
    units = [policy.demonstration(policy.prompt("Who?"), "A sailor.")]
    losses = [keel.imitate(learner, units)["loss"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.1
    with pytest.raises(DataError, match="cannot be rendered"):
        policy.demonstration(policy.prompt("Who? " * 2000), "A sailor.")


def test_updates_of_several_epochs_hand_their_weights_on(proofs: None, tmp_path: Path) -> None:
    """After an update the sampler draws from the new weights, and what is saved is what was trained."""
    policy = keel.load("tiny:llama?seed=3", precision="fp32")
    several = keel.algorithm("grpo_trl", epochs=2)
    learner, sampler = policy.learner(lr=1e-3, updates=2), policy.sampler()
    groups = keel.score(keel.sample(sampler, policy, [policy.prompt("Who?")], 4, max_tokens=6), of_length)
    units, _ = keel.credit(groups, several, learner)
    assert all("old_logprobs" in b.signals for u in units for b in u.branches)
    report = keel.update(learner, sampler, units, several, 1)
    assert learner.updates == 2
    assert report["grad_norm"] > 0
    (after,) = keel.sample(sampler, policy, [policy.prompt("Who?")], 1, step=1, max_tokens=6)
    assert after.rollouts[0].version_T.unique().tolist() == [1]
    policy.save(tmp_path / "final")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    torch.testing.assert_close(saved.get_input_embeddings().weight, policy.model.module.get_input_embeddings().weight)
