"""The table of direct preference losses: what an empty setting means, what is refused and why, what each loss needs."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from keel.core.errors import ConfigError
from keel.methods.math.preference import dpo, smoothed
from keel.methods.objectives.mixture import MixtureObjective
from keel.methods.objectives.preference import AnswerObjective, PreferenceObjective, TokenPreferenceObjective, TransportObjective
from keel.methods.preference import PREFERENCE_OBJECTIVES, ObjectiveConfig, preference_objective

NAMES = [
    "dpo",
    "ipo",
    "kto",
    "orpo",
    "simpo",
    "cpo",
    "slic",
    "bco",
    "exo",
    "aot",
    "dpop",
    "robust_dpo",
    "mpo",
    "tdpo",
    "mdpo",
    "conditional",
    "anchor",
]


def made(name: str, **fields):
    return preference_objective(ObjectiveConfig(name=name, **fields))


@pytest.mark.parametrize("name", PREFERENCE_OBJECTIVES)
def test_every_row_makes_an_objective(name):
    assert "logprobs" in made(name).needs


@pytest.mark.parametrize("name", NAMES)
def test_only_some_need_a_reference_or_answers_to_other_prompts(name):
    objective = made(name)
    assert objective.needs_reference == (name not in {"orpo", "simpo", "cpo"})
    assert objective.needs_strangers == (name == "kto")
    assert objective.takes_answers == (name in {"kto", "bco"})
    assert ("ref_kl" in objective.needs) == (name == "tdpo")
    assert objective.needs_contrast == (name in {"mdpo", "conditional"})


def test_defaults_of_the_papers():
    plain = made("dpo")
    assert isinstance(plain, PreferenceObjective)
    assert (plain.pair_loss, plain.beta, plain.relabel, plain.score, plain.per_token) == (dpo, 0.1, None, "ratio", False)
    assert made("ipo").per_token, "log-ratios are means over tokens"
    assert not made("ipo", length_normalised=False).per_token
    simpo = made("simpo")
    assert (simpo.beta, simpo.gamma, simpo.per_token, simpo.score) == (2.0, 0.5, True, "logprob")
    for name in ("orpo", "cpo"):
        assert [(p.name, p.weight) for p in made(name).parts] == [(name, 1.0), ("sft", 1.0)]
    assert [(p.name, p.weight) for p in made("mpo").parts] == [("dpo", 0.8), ("bco", 0.2), ("sft", 1.0)]
    assert [(p.name, p.weight, p.objective.beta) for p in made("mdpo").parts] == [(n, 1.0, 0.1) for n in ("dpo", "conditional", "anchor")]
    assert made("anchor").gamma == 0.0
    assert isinstance(made("aot"), TransportObjective)
    assert isinstance(made("tdpo"), TokenPreferenceObjective)
    assert made("tdpo").alpha == 0.5
    kto, bco = made("kto"), made("bco")
    assert isinstance(kto, AnswerObjective)
    assert (kto.source, kto.pair_mean, bco.source, bco.pair_mean) == ("kl", True, "midpoint", False)


def test_overrides():
    objective = made("dpo", beta=0.3, label_smoothing=0.1, margin_coef=2.0, length_normalised=True)
    assert (objective.beta, objective.margin_coef, objective.per_token) == (0.3, 2.0, True)
    assert objective.relabel.func is smoothed
    assert objective.relabel.keywords == {"share": 0.1}
    assert made("bco", answers={"reward_shift": False}).source == "zero"
    assert made("kto", answers={"undesirable_weight": 1.5}).weights == (1.0, 1.5)
    assert made("orpo", sft_coef=0).beta == 0.1, "a loss alone is no mixture"
    mixed = made("mpo", mixture={"dpo": 0.8, "kto": 0.5, "slic": 0.0}, beta=0.2, sft_coef=0)
    assert isinstance(mixed, MixtureObjective)
    assert [(p.name, p.weight, p.objective.beta) for p in mixed.parts] == [("dpo", 0.8, 0.2), ("kto", 0.5, 0.2)]
    assert mixed.needs_strangers


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "dpoo"}, "is none of"),
        ({"beta": 0.0}, "greater than 0"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"gamma": 1.0}, "gamma would have no effect: dpo does not read it \\(simpo, anchor would\\)"),
        ({"mixture": {"dpo": 1.0}}, "mixture would have no effect"),
        (
            {"answers": {"desirable_weight": 2.0}},
            "answers.desirable_weight would have no effect: dpo does not read it \\(kto, bco would\\)",
        ),
        ({"alpha": 0.5}, "alpha would have no effect: reverse_kl has none"),
        ({"name": "kto", "margin_coef": 1.0}, "margin_coef would have no effect"),
        ({"name": "kto", "answers": {"desirable_weight": 0, "undesirable_weight": 0}}, "nothing would be learned"),
        ({"name": "simpo", "divergence": "js"}, "divergence would have no effect"),
        ({"name": "exo", "label_smoothing": 0.0}, "no finite distance"),
        ({"name": "robust_dpo", "label_smoothing": 0.0}, "plain dpo"),
        ({"name": "mpo", "mixture": {"mpo": 1.0}}, "mixture.mpo is no loss"),
        ({"name": "mpo", "mixture": {"sft": 1.0}}, "sft_coef"),
        ({"name": "mpo", "mixture": {"dpo": -1.0, "bco": 1.0}}, "below 0"),
        ({"name": "mpo", "mixture": {"dpo": 0.0}}, "every weight of the mixture is 0"),
        ({"name": "mpo", "label_smoothing": 0.1}, "label_smoothing would have no effect"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(fields, reason):
    with pytest.raises((ValidationError, ConfigError), match=reason):
        ObjectiveConfig(**fields)
