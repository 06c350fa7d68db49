"""Score heads by themselves: what is read of an answer, what each output means, what comes back from files."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from keel.core.errors import ModelError
from keel.kernels import pooling
from keel.kernels.pooling import spans
from keel.learner.packing import pack
from keel.models.heads import PLAIN, HeadSpec, ScoreHead, load_heads, save_heads, stored_spec
from keel.types import Branch, Encoded, Unit

H = 6


def batch():
    """Two units of prompts 2 and 1 and branches of 3, 1, and 1 and 2 tokens: packed positions 2-4, 5, 7, 8-9."""

    def branch(n: int) -> Branch:
        return Branch(torch.arange(n), torch.ones(n, dtype=torch.bool))

    units = [
        Unit("a", Encoded(torch.tensor([1, 2])), (branch(3), branch(1))),
        Unit("b", Encoded(torch.tensor([1])), (branch(1), branch(2))),
    ]
    return pack(units)


def states() -> torch.Tensor:
    return torch.randn(10, H, generator=torch.Generator().manual_seed(0))


def test_where_answers_stand():
    found = spans(batch(), torch.device("cpu"))
    assert found.at_P.tolist() == [2, 3, 4, 5, 7, 8, 9]
    assert found.branch_P.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert found.last_R.tolist() == [4, 5, 7, 9]


def test_mean_and_attention_over_an_answer_alone():
    x, found = states(), spans(batch(), torch.device("cpu"))
    rows = [x[2:5], x[5:6], x[7:8], x[8:10]]
    torch.testing.assert_close(pooling.mean(x[found.at_P], found), torch.stack([r.mean(0) for r in rows]))
    logits = x[:, 0] * 50  # softmax must be taken within each answer, and not overflow
    expected = torch.stack([torch.softmax(r[:, 0] * 50, 0) @ r for r in rows])
    torch.testing.assert_close(pooling.attend(x[found.at_P], logits[found.at_P], found), expected)


@pytest.mark.parametrize("kind", ["mean", "attention", "last_mean"])
def test_poolings_of_a_head(kind):
    x, found = states(), spans(batch(), torch.device("cpu"))
    head = ScoreHead(replace(PLAIN, pooling=kind), H, 0)
    weight = head.members[0].out.weight[0].detach()
    mean = pooling.mean(x[found.at_P], found)
    if head.query is not None:
        torch.nn.init.constant_(head.query, 0.7)
        pooled = pooling.attend(x[found.at_P], x[found.at_P] @ head.query.detach() / H**0.5, found)
    elif head.mix is not None:
        torch.nn.init.constant_(head.mix, math.log(3.0))  # three quarters last, one quarter mean
        pooled = 0.75 * x[found.last_R] + 0.25 * mean
    else:
        pooled = mean
    torch.testing.assert_close(head(x, found).scores_R.detach(), pooled @ weight)


def test_the_plain_head_is_a_linear_map_of_the_last_real_token():
    x, found = states(), spans(batch(), torch.device("cpu"))
    head = ScoreHead(PLAIN, H, 3)
    torch.testing.assert_close(head(x, found).scores_R, x[[4, 5, 7, 9]] @ head.weight[0])
    assert head(x, found).variance_RM.tolist() == [[0.0]] * 4


def test_members_differ_and_the_first_is_the_head_alone():
    x, found = states(), spans(batch(), torch.device("cpu"))
    three = ScoreHead(replace(PLAIN, members=3), H, 3)(x, found).members_RM.detach()
    torch.testing.assert_close(three[:, 0], ScoreHead(PLAIN, H, 3)(x, found).scores_R)
    assert len({round(float(v), 5) for v in three[0]}) == 3


def test_dimensions_weigh_in_the_one_score_and_its_variance():
    x, found = states(), spans(batch(), torch.device("cpu"))
    spec = HeadSpec(output="gaussian", dimensions=("a", "b"), weights=(0.25, -2.0))
    judged = ScoreHead(spec, H, 0)(x, found)
    a, b = judged.scores_RMD[:, 0].T
    torch.testing.assert_close(judged.scores_R, 0.25 * a - 2.0 * b)
    va, vb = judged.variance_RMD[:, 0].T
    assert (va > 0).all()
    torch.testing.assert_close(judged.variance_RM[:, 0], va / 16 + 4 * vb)


def test_levels_of_a_distribution_have_a_mean_and_a_variance():
    x, found = states(), spans(batch(), torch.device("cpu"))
    head = ScoreHead(HeadSpec(output="distribution", levels=(-1.0, 0.0, 2.0)), H, 0)
    torch.nn.init.zeros_(head.members[0].out.weight)
    judged = head(x, found)
    assert judged.scores_R.tolist() == pytest.approx([1 / 3] * 4)
    assert judged.variance_RM[:, 0].tolist() == pytest.approx([(16 / 9 + 1 / 9 + 25 / 9) / 3] * 4)


def test_ordered_levels_rise_with_the_score_and_their_cuts_stay_in_order():
    x, found = states(), spans(batch(), torch.device("cpu"))
    head = ScoreHead(HeadSpec(output="ordinal", levels=(0.0, 1.0, 2.0, 3.0)), H, 0)
    torch.testing.assert_close(head._cuts()[0, 0], torch.tensor([-2.0, 0.0, 2.0]), rtol=0, atol=1e-3)
    torch.nn.init.constant_(head.cut_steps, -20.0)
    assert (head._cuts().diff() > 0).all()
    judged = head(x, found)
    low, high = judged.scores_R.argmin(), judged.scores_R.argmax()
    assert judged.levels_RMDK[high, 0, 0, 3] > judged.levels_RMDK[low, 0, 0, 3]
    torch.testing.assert_close(judged.levels_RMDK.exp().sum(-1), torch.ones(4, 1, 1))


def test_tanh_bounds_the_score():
    head = ScoreHead(replace(PLAIN, bound="tanh"), H, 0)
    assert float(head(100 * states(), spans(batch(), torch.device("cpu"))).scores_R.detach().abs().max()) <= 1.0


SPECS = [
    PLAIN,
    replace(PLAIN, ties=True),
    HeadSpec(trunk="mlp", width=4, pooling="attention", norm="layer", members=2),
    HeadSpec(
        pooling="last_mean", output="ordinal", dimensions=("a", "b"), weights=(0.5, 0.5), units=((1.0, 2.0),) * 2, levels=(-1.0, 0.0, 1.0)
    ),
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_head_comes_back_from_its_file(spec, tmp_path):
    head, other = ScoreHead(spec, H, 0), ScoreHead(spec, H, 1)
    for p in head.parameters():
        torch.nn.init.normal_(p)
    save_heads(tmp_path, {"score": head})
    assert load_heads(tmp_path, {"score": other}) == ["score"]
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert HeadSpec.from_json(spec.to_json()) == spec
    assert load_heads(tmp_path, {"score": ScoreHead(replace(spec, members=spec.members + 1), H, 1)}) == [], (
        "another head is not filled in part"
    )


def test_a_config_of_another_version_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"keel_reward_head": {"shape": "round"}}')
    with pytest.raises(ModelError, match="not one that this version knows"):
        stored_spec(tmp_path)
