"""Direct preference losses by name, in one table, and their settings.

``PREFERENCE_OBJECTIVES[name]`` says what an empty setting means for that loss and which settings it reads; the rest is refused, so that no
setting is believed to do something that it does not. A new loss is a function and one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.core.python_file import names_a_file
from keel.core.schema import key_of
from keel.methods.math.kl import DIVERGENCES
from keel.methods.math.preference import bco, dpo, dpop, exo, hinge, ipo, kto, orpo, smoothed, unbiased
from keel.methods.objectives.contrast import AnchorObjective, ConditionalObjective
from keel.methods.objectives.mixture import DirectObjective, ImitationObjective, MixtureObjective, Part
from keel.methods.objectives.preference import AnswerObjective, PairLoss, PreferenceObjective, TokenPreferenceObjective, TransportObjective
from keel.methods.own import own_pair_loss


@dataclass(frozen=True, slots=True)
class Numbers:
    """All settings of a loss, resolved. Defaults are DPO's."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    length_normalised: bool = False
    margin_coef: float = 0.0
    gamma: float = 0.0
    penalty: float = 0.0
    divergence: str = "reverse_kl"
    alpha: float = 0.5
    sft_coef: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    reward_shift: bool = True

    @property
    def relabel(self) -> Callable[[Tensor], Tensor] | None:
        return partial(smoothed, share=self.label_smoothing) if self.label_smoothing else None


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """A row: how the objective is made of numbers, the settings that it reads (``sft_coef`` goes with every loss), and its own numbers."""

    make: Callable[[Numbers], DirectObjective]
    reads: frozenset[str]
    own: Numbers = Numbers()


def _pairs(pair_loss: PairLoss, **fixed: Any) -> Callable[[Numbers], DirectObjective]:
    """A loss of two scores with every setting that such a loss may have; ``fixed`` are fields of the objective."""

    def make(n: Numbers) -> DirectObjective:
        given: dict[str, Any] = {
            "beta": n.beta,
            "relabel": n.relabel,
            "per_token": n.length_normalised,
            "gamma": n.gamma,
            "margin_coef": n.margin_coef,
            "divergence": None if n.divergence == "reverse_kl" else partial(_divergence, name=n.divergence, alpha=n.alpha),
        }
        return PreferenceObjective(pair_loss=pair_loss, **(given | fixed))

    return make


def _divergence(ratio_R: Tensor, name: str, alpha: float) -> Tensor:
    return DIVERGENCES[name](ratio_R, alpha)


def _robust(n: Numbers) -> DirectObjective:
    return _pairs(dpo, relabel=partial(unbiased, share=n.label_smoothing))(n)


def _dpop(n: Numbers) -> DirectObjective:
    return _pairs(partial(dpop, penalty=n.penalty))(n)


def _answers(n: Numbers) -> dict[str, Any]:
    return {"beta": n.beta, "weights": (n.desirable_weight, n.undesirable_weight)}


def _bco(n: Numbers) -> DirectObjective:
    return AnswerObjective(answer_loss=bco, source="midpoint" if n.reward_shift else "zero", pair_mean=False, **_answers(n))


def _without_margin(pair_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> PairLoss:
    return partial(_marginless, pair_loss)


def _marginless(
    pair_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor],
    winner_E: Tensor,
    loser_E: Tensor,
    label_E: Tensor,
    margin_E: Tensor,
    beta: float,
) -> Tensor:
    return pair_loss(winner_E, loser_E, label_E, beta)


def _no_mixture(n: Numbers) -> DirectObjective:
    raise AssertionError("a mixture is made of its parts")


_PAIR = frozenset({"beta", "label_smoothing", "length_normalised", "margin_coef"})
_REFERRED = _PAIR | {"divergence", "alpha"}
_ANSWER = frozenset({"beta", "desirable_weight", "undesirable_weight"})

PREFERENCE_OBJECTIVES: dict[str, PreferenceLoss] = {
    "dpo": PreferenceLoss(_pairs(dpo), _REFERRED),
    # beta is tau. Log-ratios are means over tokens, as the authors recommend and TRL does; length_normalised=false is eq. 17 as printed
    "ipo": PreferenceLoss(_pairs(ipo), _REFERRED, Numbers(length_normalised=True)),
    "kto": PreferenceLoss(lambda n: AnswerObjective(answer_loss=kto, **_answers(n)), _ANSWER),
    # beta is lambda
    "orpo": PreferenceLoss(
        _pairs(_without_margin(orpo), score="logprob", per_token=True), frozenset({"beta", "label_smoothing"}), Numbers(sft_coef=1.0)
    ),
    # beta and gamma as in the authors' code: gamma / beta = 0.25 nats per token
    "simpo": PreferenceLoss(_pairs(dpo, score="logprob"), _PAIR | {"gamma"}, Numbers(beta=2.0, gamma=0.5, length_normalised=True)),
    "cpo": PreferenceLoss(_pairs(dpo, score="logprob"), _PAIR, Numbers(sft_coef=1.0)),
    "slic": PreferenceLoss(_pairs(hinge), _REFERRED),
    "bco": PreferenceLoss(_bco, _ANSWER | {"reward_shift"}),
    # the paper's smoothing: without any, a preference that is certain has no finite distance
    "exo": PreferenceLoss(_pairs(_without_margin(exo)), _REFERRED - {"margin_coef"}, Numbers(label_smoothing=1e-3)),
    "aot": PreferenceLoss(lambda n: TransportObjective(n.beta, n.relabel), frozenset({"beta", "label_smoothing"})),
    "dpop": PreferenceLoss(_dpop, frozenset({"beta", "label_smoothing", "margin_coef", "penalty"}), Numbers(beta=0.3, penalty=50.0)),
    "robust_dpo": PreferenceLoss(_robust, _REFERRED, Numbers(label_smoothing=0.1)),
    # InternVL's: preference 0.8, quality 0.2, generation 1
    "mpo": PreferenceLoss(_no_mixture, frozenset({"beta", "mixture"}), Numbers(sft_coef=1.0)),
    # the three terms of the paper, each with weight 1 and with one beta
    "mdpo": PreferenceLoss(_no_mixture, frozenset({"beta", "mixture"})),
    "conditional": PreferenceLoss(lambda n: ConditionalObjective(n.beta), frozenset({"beta"})),
    "anchor": PreferenceLoss(lambda n: AnchorObjective(n.beta, n.gamma), frozenset({"beta", "gamma"})),
    # the authors' code's alpha
    "tdpo": PreferenceLoss(
        lambda n: TokenPreferenceObjective(n.beta, n.relabel, n.penalty),
        frozenset({"beta", "label_smoothing", "penalty"}),
        Numbers(penalty=0.5),
    ),
}
MIXTURES: dict[str, dict[str, float]] = {
    "mpo": {"dpo": 0.8, "bco": 0.2},
    "mdpo": {"dpo": 1.0, "conditional": 1.0, "anchor": 1.0},
}

_OWN = " Empty: the loss's own."


def _is_a_loss(name: str) -> str:
    """A row of the table, or a file's: whether that file has it is told when it is read."""
    if name not in PREFERENCE_OBJECTIVES and not names_a_file(name):
        raise ValueError(f"'{name}' is none of: {', '.join(PREFERENCE_OBJECTIVES)}; nor is it FILE.py:NAME")
    return name


def _row(name: str) -> PreferenceLoss:
    """The row of a loss; that of a user's function is DPO's with the function in its place."""
    return PreferenceLoss(_pairs(own_pair_loss(name)), _REFERRED) if names_a_file(name) else PREFERENCE_OBJECTIVES[name]


class AnswerConfig(Section):
    """Losses of single answers (kto, bco)."""

    desirable_weight: float | None = Field(default=None, ge=0, description="Weight of wanted answers' losses." + _OWN)
    undesirable_weight: float | None = Field(default=None, ge=0, description="Weight of unwanted answers' losses." + _OWN)
    reward_shift: bool | None = Field(
        default=None, description="BCO: measure rewards from midway between wanted and unwanted answers of the optimizer batch." + _OWN
    )


class ObjectiveConfig(Section):
    """A direct preference loss by name; every other field overrides one of its numbers."""

    name: Annotated[str, AfterValidator(_is_a_loss)] = Field(
        default="dpo", description=f"One of: {', '.join(PREFERENCE_OBJECTIVES)}; or a function of yours, FILE.py:NAME, called as dpo's is."
    )
    beta: float | None = Field(default=None, gt=0, description="Strength of the tie to the reference; IPO's tau, ORPO's lambda." + _OWN)
    label_smoothing: float | None = Field(
        default=None,
        ge=0,
        lt=0.5,
        description="Share of the preferences taken to be wrong (cDPO; robust_dpo corrects for it)." + _OWN,
    )
    length_normalised: bool | None = Field(default=None, description="Scores are means over an answer's tokens in place of sums." + _OWN)
    margin_coef: float | None = Field(
        default=None, ge=0, description="The data's margin times this is a lead in reward that is asked for (ODPO)." + _OWN
    )
    gamma: float | None = Field(
        default=None,
        ge=0,
        description="SimPO: the lead in reward that is asked of every pair; anchor: the reward that is asked of the chosen answer." + _OWN,
    )
    penalty: float | None = Field(default=None, ge=0, description="DPOP's lambda, TDPO's alpha: price of the extra term." + _OWN)
    divergence: Annotated[str | None, key_of(DIVERGENCES)] = Field(
        default=None, description=f"What ties to the reference, one of: {', '.join(DIVERGENCES)}." + _OWN
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="With divergence alpha: near 0 the reverse KL, near 1 the forward KL." + _OWN
    )
    sft_coef: float | None = Field(
        default=None, ge=0, description="Adds this times the preferred answer's mean negative log-likelihood per token." + _OWN
    )
    mixture: dict[str, float] = Field(
        default={},
        description="mpo and mdpo: loss -> weight; empty = "
        + ", ".join(f"{name}: {weights}" for name, weights in MIXTURES.items())
        + ". `beta` is then that of every part.",
    )
    answers: AnswerConfig = Field(default=AnswerConfig(), description="Losses of single answers (kto, bco).")

    @model_validator(mode="after")
    def _parts_go_together(self) -> ObjectiveConfig:
        preference_objective(self)
        return self


def preference_objective(config: ObjectiveConfig) -> DirectObjective:
    """The objective that ``config`` describes.

    Raises:
        ConfigError: settings that cannot go together or that nothing would read; all of them at once, each with its reason.
    """
    row, given = _row(config.name), dict(_given(config))
    numbers = replace(row.own, **{name: value for name, value in given.items() if name != "mixture"})
    problems = [*_idle(config.name, row, given), *_contradictions(config, numbers, given)]
    if problems:
        raise ConfigError(f"objective '{config.name}' cannot be as set: " + "; ".join(problems))
    if config.name in MIXTURES:
        weights = config.mixture or MIXTURES[config.name]
        beta = {} if config.beta is None else {"beta": config.beta}
        parts = [_part(name, weight, beta) for name, weight in weights.items() if weight > 0]
    else:
        parts = [Part(config.name, 1.0, row.make(numbers))]
    if numbers.sft_coef > 0:
        parts.append(Part("sft", numbers.sft_coef, ImitationObjective()))
    return parts[0].objective if parts[0].weight == 1.0 and len(parts) == 1 else MixtureObjective(tuple(parts))


def _part(name: str, weight: float, beta: Mapping[str, float]) -> Part:
    row = PREFERENCE_OBJECTIVES[name]
    return Part(name, weight, row.make(replace(row.own, **beta)))


def _given(config: ObjectiveConfig) -> Iterator[tuple[str, Any]]:
    """The settings that were given, by name."""
    for section in (config, config.answers):
        for name in type(section).model_fields:
            value = getattr(section, name)
            if name not in {"name", "answers"} and value is not None and value != {}:
                yield name, value


def _idle(name: str, row: PreferenceLoss, given: Mapping[str, Any]) -> Iterator[str]:
    """Settings that nothing would read: better refused than believed."""
    for setting in given:
        if setting not in row.reads | {"sft_coef"}:
            places = [other for other, entry in PREFERENCE_OBJECTIVES.items() if setting in entry.reads]
            path = f"answers.{setting}" if setting in AnswerConfig.model_fields else setting
            yield f"{path} would have no effect: {name} does not read it ({', '.join(places)} would)"


def _contradictions(config: ObjectiveConfig, numbers: Numbers, given: Mapping[str, Any]) -> Iterator[str]:
    if "alpha" in given and numbers.divergence != "alpha":
        yield f"alpha would have no effect: {numbers.divergence} has none (divergence=alpha)"
    if config.name == "exo" and numbers.label_smoothing == 0:
        yield "label_smoothing=0 leaves certain preferences at no finite distance (label_smoothing=0.001 is the paper's)"
    if numbers.desirable_weight == numbers.undesirable_weight == 0:
        yield "both weights of answers are 0, so nothing would be learned"
    if config.name == "robust_dpo" and numbers.label_smoothing == 0:
        yield "label_smoothing=0 is plain dpo (say which share of the labels is wrong, or name=dpo)"
    for name, weight in config.mixture.items():
        if name not in PREFERENCE_OBJECTIVES or name in MIXTURES:
            others = ", ".join(other for other in PREFERENCE_OBJECTIVES if other not in MIXTURES)
            yield f"mixture.{name} is no loss (one of: {others}; the likelihood of the preferred answer is sft_coef)"
        if weight < 0:
            yield f"mixture.{name}={weight:g} is below 0"
    if config.mixture and not any(weight > 0 for weight in config.mixture.values()):
        yield "every weight of the mixture is 0, so nothing would be learned"
