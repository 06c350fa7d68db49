"""Units of losses that learn from single labelled answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from keel.core.errors import DataError
from keel.core.hashing import permutation
from keel.data.dataset import Dataset
from keel.loops.online import BranchTensors, with_signal
from keel.methods.objectives.mixture import DirectObjective
from keel.render.renderer import Refusal, Renderer
from keel.render.targets import labels_to_units
from keel.types import Branch, Unit, Unpaired
from keel.verbs.shared.units import preference_units

Logprobs = Callable[[Sequence[Unit]], BranchTensors]


def answer_units(renderer: Renderer) -> Callable[[Dataset], tuple[list[Unit], list[Refusal]]]:
    """Answers with labels, one unit each; or pairs, as ``preference_units``."""

    def render(dataset: Dataset) -> tuple[list[Unit], list[Refusal]]:
        unpaired = any(isinstance(record, Unpaired) for record in dataset.records)
        return labels_to_units(renderer, dataset.of(Unpaired)) if unpaired else preference_units(renderer)(dataset)

    return render


def referred(objective: DirectObjective, units: tuple[Unit, ...], seed: int, logprobs: Logprobs) -> tuple[Unit, ...]:
    """Units with what the objective takes from the reference, whose ``logprobs`` these are."""
    if objective.needs_reference and units:
        units = with_signal(units, "ref_logprobs", logprobs(units))
        others = [u.contrast for u in units if u.contrast is not None]
        contrasts = iter(with_signal(others, "ref_logprobs", logprobs(others)) if others else ())
        units = tuple(u if u.contrast is None else replace(u, contrast=next(contrasts)) for u in units)
    if objective.needs_strangers and units:
        strangers = answers_to_others(units, seed)
        strangers = with_signal(strangers, "ref_logprobs", logprobs(strangers))
        units = tuple(replace(u, meta={**u.meta, "stranger": s}) for u, s in zip(units, strangers, strict=True))
    return units


def answers_to_others(units: Sequence[Unit], seed: int) -> tuple[Unit, ...]:
    """For every unit, its prompt with the answers of a unit of another prompt: the next one in an order drawn by ``seed`` whose prompt
    differs. Fixed for the whole run, so that the reference's log-probabilities of them are taken once.

    Raises DataError where all prompts are the same.
    """
    drawn = permutation(len(units), "strangers", seed)
    keys = [_prompt_key(units[i]) for i in drawn]
    if len(set(keys)) < 2:
        raise DataError(
            "this loss needs answers to other prompts, and there is only one prompt on a side of the data",
            "give more prompts, or another share of held-out ones",
        )
    strangers: dict[int, Unit] = {}
    for at, i in enumerate(drawn):
        other = next(k % len(drawn) for k in range(at + 1, at + len(drawn)) if keys[k % len(drawn)] != keys[at])
        plain = tuple(Branch(b.tokens_T, b.trained_T) for b in units[drawn[other]].branches)
        strangers[i] = Unit(f"{units[i].unit_id}~{units[drawn[other]].unit_id}", units[i].prompt, plain)
    return tuple(strangers[i] for i in range(len(units)))


def _prompt_key(unit: Unit) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return tuple(unit.prompt.tokens_T.tolist()), tuple(m.digest for m in unit.prompt.media)
