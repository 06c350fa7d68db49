"""A reward model is read at the end token of an answer: in training, in evaluation, in RL, however the answer came about."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from keel.render.targets import pairs_to_units
from keel.rewards.segments import SegmentedModel
from keel.rewards.settings import SegmentsConfig
from keel.rewards.sources.model import ModelSource, units_of
from keel.types import (
    Encoded,
    Group,
    Message,
    Pair,
    Prompt,
    Ranking,
    Rating,
    Record,
    Rollout,
    Steps,
    StepsTarget,
    Unit,
    Unpaired,
    empty_group,
)

TEMPLATES = ["chatml", "marked", "marked_short", "default_system", "llama3", "gemma", "no_end", "none", "bos"]
TEXT = "Red, green or blue. It is four."


def prompt_of(name: str) -> Prompt:
    return Prompt("p", text="What is two and two?") if name in ("none", "bos") else Prompt("p", (Message("user", "What is two and two?"),))


def records(prompt: Prompt) -> list[Record]:
    long, short = ((Message("assistant", t),) for t in (TEXT, "Red. Green."))
    return [
        Ranking("r", prompt, (long, short), (1, 2)),
        Rating("s", prompt, long, {"good": 1.0}),
        Unpaired("u", prompt, long, True),
        Steps("t", prompt, ("It is two.", "It is four."), (True, False)),
    ]


def rollout(tokens: list[int], finish: str) -> Rollout:
    n = len(tokens)
    return Rollout("p", 0, 0, torch.tensor(tokens), torch.ones(n).bool(), torch.zeros(n), torch.zeros(n).long(), finish, TEXT)  # pyright: ignore[reportArgumentType]


def group_of(prompt: Prompt, *rollouts: Rollout) -> Group:
    numbered = [replace(r, sample=i) for i, r in enumerate(rollouts)]
    return empty_group(prompt, Encoded(torch.tensor([3])), numbered)


@pytest.mark.parametrize(("name", "cut"), product(TEMPLATES, (False, True)))
def test_in_training_the_last_token_ends_the_answer(name, cut, render) -> None:
    r = render(name, **({"max_completion": 5, "over_long": "cut_completion"} if cut else {}))
    prompt = prompt_of(name)
    end = r.end_of_answer(prompt)[-1]
    pair = Pair("q", prompt, (Message("assistant", TEXT),), (Message("assistant", "Blue. Name a colour."),))
    (unit,), refused = pairs_to_units(r, [pair])
    units = [unit, *(u for u in r.units(records(prompt))[0])]
    assert not refused
    assert len(units) == (4 if cut else 5), "stepwise answers are never cut"
    for unit in units:
        for branch in unit.branches:
            assert int(branch.tokens_T[-1]) == end
            assert len(branch) <= 5 or not cut
            assert bool(branch.trained_T[-1]) != cut, "a policy learns to stop where an answer ends, not where it was cut"
        if isinstance(unit.target, StepsTarget):
            assert [ends[-1] for ends in unit.target.ends] == [len(unit.branches[0]) - 1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_sampled_answer_is_read_there_too(name, render) -> None:
    r, prompt = render(name), prompt_of(name)
    end = tuple(r.end_of_answer(prompt))
    text = r.codec.continuation(TEXT)
    stops = [rollout([*text, stop], "stop") for stop in r.stop_tokens]  # the template's own, and the tokenizer's
    cut, by_text, nothing = rollout(text, "length"), rollout(text, "stop"), rollout([r.stop_tokens[0]], "stop")
    rollouts = [rollout([*text, *end], "stop"), *stops, cut, by_text, nothing]
    unit, used = units_of(group_of(prompt, *rollouts), r.closed)
    assert unit is not None
    assert used == list(range(len(rollouts)))
    for branch, drawn in zip(unit.branches, rollouts, strict=True):
        assert int(branch.tokens_T[-1]) == end[-1]
        assert sum(int(t) in r.stop_tokens for t in branch.tokens_T) == 1, "one end, not two"
        kept = int(drawn.tokens_T[-1]) == end[-1]
        assert bool(branch.trained_T[-1]) == kept, "what was put there was not sampled"
        assert r.decode(branch.tokens_T) == r.decode(drawn.tokens_T), "what was said stays as it was"


def test_every_source_of_a_model_closes(render) -> None:
    """A reward model alone, and one that is read at parts: the last part is read where the whole answer ends."""
    r, prompt = render("chatml"), prompt_of("chatml")
    end = r.end_of_answer(prompt)[-1]
    group = group_of(prompt, rollout(r.codec.continuation(TEXT), "stop"))
    asked: list[Unit] = []

    def scores(units):
        asked.extend(units)
        return [torch.zeros(len(u.branches)) for u in units]

    def steps(units):
        asked.extend(units)
        return [tuple(torch.zeros(len(ends)) for ends in u.target.ends) for u in units]

    ModelSource("m", scores, r.closed).score([group])
    SegmentedModel("s", steps, r.closed, SegmentsConfig(by="sentence", aggregate="mean"), r.decode).score([group])
    assert len(asked) == 2
    for unit in asked:
        assert [int(b.tokens_T[-1]) for b in unit.branches] == [end]
    assert isinstance(asked[1].target, StepsTarget)
    assert asked[1].target.ends[0][-1] == len(asked[1].branches[0]) - 1


def test_steps_are_read_in_rl_at_the_token_that_they_are_trained_at(render) -> None:
    """The same text as labelled steps and as a sampled answer: the same tokens, read at the same places."""
    r, prompt = render("chatml"), prompt_of("chatml")
    parts = ("It is two.", "Name a colour.", "It is four.")
    trained = r.unit(Steps("t", prompt, parts, (True, True, False)))
    assert isinstance(trained, Unit)
    assert isinstance(trained.target, StepsTarget)
    found: list[StepsTarget] = []

    def steps(units):
        found.extend(u.target for u in units)
        return [tuple(torch.zeros(len(ends)) for ends in u.target.ends) for u in units]

    drawn = replace(rollout(trained.branches[0].tokens_T.tolist(), "stop"), text="\n".join(parts))
    SegmentedModel("s", steps, r.closed, SegmentsConfig(by="line", aggregate="min"), r.decode).score([group_of(prompt, drawn)])
    assert found[0].ends == trained.target.ends
