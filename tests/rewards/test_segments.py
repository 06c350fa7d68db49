"""Rewards of parts of an answer: what the whole gets, where each part is due, and who sees it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from keel.core.errors import ConfigError
from keel.methods.credit.assign import CreditRule, assign
from keel.methods.credit.scaling import RewardRule, RewardScale, scaled
from keel.methods.credit.units import rollout_units
from keel.rewards.build import build_rewards, text_source
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.score import Score, failure
from keel.rewards.segments import SegmentedModel, SegmentedText, placed, shares, splitter, token_ends
from keel.rewards.settings import SegmentsConfig
from keel.rewards.text import TextSource
from keel.rewards.verifiers.contains import ContainsReward
from keel.rewards.verifiers.steps import StepsReward
from keel.types import Encoded, Group, Prompt, Rollout, empty_group

PROMPT = Prompt("p", text="?")


def decode(tokens_T: torch.Tensor) -> str:
    """A token is a character."""
    return "".join(chr(int(t)) for t in tokens_T)


def rollout(text: str, i: int = 0, unsampled: tuple[int, ...] = (), finish: str = "stop") -> Rollout:
    tokens = torch.tensor([ord(c) for c in text])
    sampled = torch.tensor([t not in unsampled for t in range(len(text))])
    zeros = torch.zeros(len(text))
    whole = torch.zeros(len(text), dtype=torch.int64)
    return Rollout("p", 0, i, tokens, sampled, zeros, whole, finish, text)


def group(*texts: str) -> Group:
    return empty_group(PROMPT, Encoded(torch.tensor([1])), [rollout(t, i) for i, t in enumerate(texts)])


def length_of(prompt: Prompt, text: str) -> Score:
    return failure("bad") if text == "bad." else Score(float(len(text)))


def source(by: str = "sentence", how: str = "mean", with_tokens: bool = True) -> SegmentedText:
    config = SegmentsConfig(by=by, aggregate=how)
    return SegmentedText(TextSource("parts", length_of), splitter(config), how, decode if with_tokens else None)


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", [1.0, 0.5, 1.5]), ("sum", [2.0, 1.0, 3.0]), ("min", [0.0, 1.0, 0.0]), ("last", [0.0, 0.0, 3.0])]
)
def test_shares_add_up_to_the_score(how: str, expected: list[float]) -> None:
    scores = [2.0, 1.0, 3.0]
    found = shares(scores, how)
    assert found == pytest.approx([2 / 3, 1 / 3, 1.0] if how == "mean" else expected)
    assert math.fsum(found) == pytest.approx({"mean": 2.0, "sum": 6.0, "min": 1.0, "last": 3.0}[how])


def test_parts_end_where_their_last_token_is() -> None:
    r = rollout("Hi. 你好。\n\nNo 3.5!")
    config = SegmentsConfig(by="sentence")
    ends = [b for _, b in splitter(config)(r.text)]
    assert [r.text[:e] for e in ends] == ["Hi.", "Hi. 你好。", "Hi. 你好。\n\nNo 3.5!"]
    assert token_ends(r, ends, decode) == [e - 1 for e in ends]
    wide = rollout("abcdef")
    assert token_ends(wide, [3, 6], lambda t: decode(t) * 2) == [1, 2], "two characters a token"


def test_what_is_due_stands_at_sampled_tokens() -> None:
    r = rollout("abcdef", unsampled=(0, 3))
    assert placed(r, [0, 3, 5], [1.0, 2.0, 4.0]).tolist() == [0.0, 1.0, 2.0, 0.0, 0.0, 4.0]


def test_every_level_has_its_score() -> None:
    text = "One. Two three.\nFour.\n\nSix seven eight."
    scores = [float(source(by).judge([(PROMPT, text)])[0]) for by in ("sentence", "line", "paragraph")]
    assert scores == pytest.approx([(4 + 10 + 5 + 16) / 4, (15 + 5 + 16) / 3, (21 + 16) / 2])


def test_a_part_that_fails_is_a_failure_of_the_whole() -> None:
    score = source().judge([(PROMPT, "good. bad.")])[0]
    assert math.isnan(score)
    assert score.error == "bad"


def rewarded(how: str = "mean", weight: float = 2.0) -> Group:
    return apply_rewards([group("ab. c.", "abcdef.")], [Reward(source(how=how), weight)])[0]


def test_credit_by_token_sees_each_part_at_its_end_and_groups_see_the_whole() -> None:
    found = rewarded()
    assert found.rewards_G.tolist() == pytest.approx([2 * (3 + 2) / 2, 2 * 7.0])
    assert [float(m.sum()) for m in found.moved] == pytest.approx([0.0, 0.0])
    by_token = assign([found], rollout_units([found]), CreditRule("reward_to_go"))[0].branches
    # "ab." is worth 3/2 of weight 2 at its end, "c." 2/2 at the last token
    assert by_token[0].signals["advantages"].tolist() == pytest.approx([5.0, 5.0, 5.0, 2.0, 2.0, 2.0])
    assert by_token[1].signals["advantages"].tolist() == pytest.approx([14.0] * 7)
    by_group = assign([found], rollout_units([found]), CreditRule("group_centred"))[0].branches
    assert by_group[0].signals["advantages"].tolist() == pytest.approx([-4.5] * 6)


def test_the_worst_part_is_where_the_whole_is_due() -> None:
    found = rewarded("min", 1.0)
    advantages = assign([found], rollout_units([found]), CreditRule("reward_to_go"))[0].branches[0].signals["advantages"]
    assert advantages.tolist() == pytest.approx([2.0] * 6)
    other = apply_rewards([group("a. bcd.")], [Reward(source(how="min"), 1.0)])[0]
    advantages = assign([other], rollout_units([other]), CreditRule("reward_to_go"))[0].branches[0].signals["advantages"]
    assert advantages.tolist() == pytest.approx([2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_a_scale_of_rewards_scales_their_parts() -> None:
    found = rewarded()
    rule = RewardRule("running")
    scale = RewardScale().after([found], rule)
    (after,) = scaled([found], scale, rule)
    _, spread = scale.centre_and_spread(rule)
    assert spread == pytest.approx(4.5)
    assert found.moved[0].abs().sum() > 0
    assert torch.allclose(after.moved[0] * spread, found.moved[0])


def test_the_rest_of_a_reward_is_due_at_the_last_sampled_token() -> None:
    """Tool output at the end of an answer earns nothing: what parts got before is taken off where the policy last drew a token."""
    drawn = empty_group(PROMPT, Encoded(torch.tensor([1])), [rollout("ab. c.", unsampled=(4, 5))])
    (found,) = apply_rewards([drawn], [Reward(source(), 2.0)])
    assert found.moved[0][4:].tolist() == [0.0, 0.0]
    assert float(found.moved[0][2]) == pytest.approx(3.0)
    assert float(found.moved[0][found.rollouts[0].sampled_T].sum()) == pytest.approx(0.0)


def test_what_was_due_is_asked_for_once() -> None:
    """The rollouts of earlier steps are gone: nothing is kept that a later rollout could be taken for."""
    reward = Reward(source())
    apply_rewards([group("ab. c.")], [reward])
    assert isinstance(reward.source, SegmentedText)
    assert reward.source.placed == {}


def test_failed_samples_are_due_nothing() -> None:
    found = apply_rewards([group("ok. bad.", "ok. fine.")], [Reward(source())])[0]
    assert found.valid_G.tolist() == [False, True]
    assert found.moved[0].abs().sum() == 0


def test_a_model_is_read_at_the_end_of_each_part_and_of_the_whole() -> None:
    asked = []

    def steps(units):
        asked.extend(u.target.ends for u in units)
        return [tuple(torch.tensor([float(e) for e in ends]) for ends in u.target.ends) for u in units]

    def closed(prompt, tokens_T):
        return tokens_T if len(tokens_T) == 6 and tokens_T[0] == ord("a") else torch.cat([tokens_T, torch.tensor([7])])

    model = SegmentedModel("prm", steps, closed, SegmentsConfig(by="sentence", aggregate="sum"), decode)
    cut = empty_group(PROMPT, Encoded(torch.tensor([1])), [rollout("a. bc.", 0), rollout("d. efg", 1, finish="length")])
    found = apply_rewards([cut], [Reward(model)])[0]
    assert asked == [((1, 5), (1, 6))], "a cut-off answer is closed, and its last part is read there"
    assert found.rewards_G.tolist() == [6.0, 7.0]
    assert found.moved[1].tolist() == pytest.approx([0.0, 1.0, 0.0, 0.0, 0.0, -1.0])
    by_token = SegmentedModel("prm", steps, lambda prompt, tokens_T: tokens_T, SegmentsConfig(by="token", aggregate="mean"), decode)
    assert by_token.score([group("abc")])[0].tolist() == pytest.approx([1.0])
    assert model.score([replace_invalid(group("a. b."))])[0].isnan().all()


def replace_invalid(found: Group) -> Group:
    from dataclasses import replace

    return replace(found, valid_G=torch.zeros(len(found.rollouts), dtype=torch.bool))


def test_each_part_is_judged_once() -> None:
    """By a judge that says 1, 2, 3 ... in turn: the whole (sum) and what is due at tokens are of the same scores."""
    said = itertools.count(1)
    config = SegmentsConfig(by="sentence", aggregate="sum")
    counting = SegmentedText(TextSource("parts", lambda prompt, text: float(next(said))), splitter(config), "sum", decode)
    given = group("One. Two.", "Three.")
    scores = counting.score([given])
    assert scores[0].tolist() == [3.0, 3.0]
    assert next(said) == 4
    due = [counting.placed[id(r)] for r in given.rollouts]
    assert [float(d.sum()) for d in due] == [3.0, 3.0]


def test_from_settings() -> None:
    words = ContainsReward(name="words", words=["yes"], segments={"by": "line"})
    (reward,) = build_rewards([words], lambda c: None, decode)
    found = apply_rewards([group("yes\nno\nyes")], [reward])[0]
    assert found.rewards_G.tolist() == pytest.approx([2 / 3])
    assert found.moved[0].tolist() == pytest.approx([0, 0, 1 / 3, 0, 0, 0, 0, 0, 0, 1 / 3 - 2 / 3])
    with pytest.raises(ConfigError, match="token is for reward models"):
        text_source(ContainsReward(name="words", words=["yes"], segments={"by": "token"}))


def test_steps_of_a_chain_of_thought() -> None:
    (reward,) = build_rewards([StepsReward(name="steps", none=-1.0)], lambda c: None, decode)
    found = apply_rewards([group("2 + 2 = 4\nso 4 * 3 = 11", "I guess 12")], [reward])[0]
    assert found.rewards_G.tolist() == [0.5, -1.0]
    assert found.moved[0].nonzero()[:, 0].tolist() == [8, 22]
    assert found.moved[0][8] == 0.5
    assert found.moved[1].abs().sum() == 0
