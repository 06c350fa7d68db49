"""Does a model look at the image? How far its output moves when the image is another one, or has lost its picture.

One measure for both kinds of model, each in a unit of its own: a reward model's scores in standard deviations of scores, a policy's
distributions in nats per token. A model is blind when no change of the image moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from keel.types import BranchTensors, PairTarget, Twin, Unit

SHOWN, SWAPPED = "shown", "swapped"  # the image as it is; another image of the same data takes the places
LOOKED_AT = 32  # units
_AMONG = 16  # times as many, among which other images are looked for
SD, NATS = "standard deviations of scores", "nats a token"
LIMITS: Mapping[str, float] = {SD: 0.1, NATS: 0.01}
REMEDY = (
    "ground it first (more SFT on answers that only the picture decides), train it on pairs whose texts are both likely, and worded alike, "
    "so that the picture decides, with projector or vision tower (model_options.train); data.without_image teaches a policy to say that "
    "there is no image"
)

Changed = Mapping[str, Sequence[tuple[Unit, Unit]]]  # by change: units as they are, and with the image changed
Scorer = Callable[[Sequence[Unit]], Sequence[Tensor]]  # units -> [branches] each


@dataclass(frozen=True, slots=True)
class Look:
    """How much a model's output moves by change of the image, in ``unit``; ``n`` units were looked at."""

    unit: str
    moved: Mapping[str, float]
    n: int

    @property
    def limit(self) -> float:
        return LIMITS[self.unit]

    @property
    def most(self) -> float:
        """By the change that it sees best."""
        return max(self.moved.values())

    @property
    def blind(self) -> bool:
        return not self.most >= self.limit  # numbers that are none are no look

    @property
    def numbers(self) -> str:
        """In words."""
        each = ", ".join(f"{value:.2g} when it is {name}" for name, value in self.moved.items())
        return f"{each} ({self.unit}, {self.n} prompts; blind below {self.limit:g})"

    @property
    def finding(self) -> str:
        """The same of images."""
        return f"the image moves the output by {self.numbers}"

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "moved": dict(self.moved), "limit": self.limit, "prompts": self.n, "blind": self.blind}


def changed(units: Sequence[Unit], twins: Mapping[str, Twin], n: int = LOOKED_AT) -> Changed:
    """The first ``n`` units that show images, each beside itself with the image changed: ``swapped`` for another unit's that takes the same
    places, and by each of ``twins``. A change that fits no unit is left out."""
    pictured = list(islice((u for u in units if u.prompt.media and u.branches), _AMONG * n))
    found: dict[str, list[tuple[Unit, Unit]]] = {SWAPPED: []} | {name: [] for name in twins}
    for i, unit in enumerate(pictured[:n]):
        shown = (unit.prompt.with_images_of(u.prompt) for u in (*pictured[i + 1 :], *pictured[:i]))
        other = next((prompt for prompt in shown if prompt is not None), None)
        for name, prompt in ((SWAPPED, other), *((name, twin(unit.prompt)) for name, twin in twins.items())):
            if prompt is not None:
                found[name].append((unit, replace(unit, prompt=prompt)))
    return {name: pairs for name, pairs in found.items() if pairs}


def scores_move(scorer: Scorer, pairs: Changed, spread_of: Sequence[Unit] = ()) -> Look | None:
    """Of a reward model: the mean of ``score_changes``. None without images."""
    moved = score_changes(scorer, pairs, spread_of)
    return Look(SD, {name: float(x.mean()) for name, x in moved.items()}, max(map(len, pairs.values()))) if moved else None


def score_changes(scorer: Scorer, pairs: Changed, spread_of: Sequence[Unit] = ()) -> dict[str, Tensor]:
    """By change, for each answer ``|score - score with the image changed|`` over the standard deviation (of the population) of all these
    answers' scores, and of those of ``spread_of``: float64. 0 where all scores are the same."""
    if not pairs:
        return {}
    before = {id(u): s for u, s in _scored(scorer, [u for of in pairs.values() for u, _ in of])}
    others = [s for _, s in _scored(scorer, list(spread_of))]
    spread = float(torch.cat([*before.values(), *others]).std(correction=0))
    moved: dict[str, Tensor] = {}
    for name, of in pairs.items():
        after = _scored(scorer, [other for _, other in of])
        apart = torch.cat([(s - before[id(u)]).abs() for (u, _), (_, s) in zip(of, after, strict=True)])
        moved[name] = apart / spread if spread > 0 else torch.zeros_like(apart)
    return moved


def scores_are_right(scorer: Scorer, pairs: Changed) -> dict[str, float]:
    """Of a reward model: the share of labelled preferences that its scores order rightly (ties left out, equal scores half right):
    ``shown`` with the image, and by change of it. What moves a model need not help it: where these are the same, it looks in vain. Empty
    where nothing is preferred."""
    whole = list({id(u): u for of in pairs.values() for u, _ in of}.values())
    sides = {SHOWN: whole} | {name: [other for _, other in of] for name, of in pairs.items()}
    found = {name: share for name, units in sides.items() if (share := _right(_scored(scorer, units))) is not None}
    return found if SHOWN in found else {}


def _right(scored: Sequence[tuple[Unit, Tensor]]) -> float | None:
    """Of all preferences; None without any."""
    edges = [(s_G, e) for u, s_G in scored if isinstance(u.target, PairTarget) for e in u.target.edges if e.label != 0.5]
    right = [0.5 * (1.0 + float(torch.sign((s_G[e.winner] - s_G[e.loser]) * (e.label - 0.5)))) for s_G, e in edges]
    return sum(right) / len(right) if right else None


def policy_moves(divergences: Callable[[Sequence[Unit], Sequence[Unit]], BranchTensors], pairs: Changed) -> Look | None:
    """Of a policy: ``KL(with the image || with the image changed)`` of the next token, mean over the trained tokens of the answers, in
    nats. ``divergences`` as ``LocalInference.divergences``. None without images or trained tokens."""
    moved: dict[str, float] = {}
    for name, of in pairs.items():
        units, others = zip(*of, strict=True)
        found = divergences(units, others)
        kls = [kl_T[b.trained_T].double() for u, row in zip(units, found, strict=True) for b, kl_T in zip(u.branches, row, strict=True)]
        kl_S = torch.cat(kls)
        if len(kl_S):
            moved[name] = float(kl_S.mean())
    return Look(NATS, moved, max(len(of) for of in pairs.values())) if moved else None


def _scored(scorer: Scorer, units: Sequence[Unit]) -> list[tuple[Unit, Tensor]]:
    """Each different unit with its scores, float64 on the CPU."""
    each = list({id(u): u for u in units}.values())
    return [(u, s.double().cpu().reshape(-1)) for u, s in zip(each, scorer(each), strict=True)] if each else []
