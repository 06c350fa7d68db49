"""What counts as a call: what was sent to a model or a server, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from writers import asked, banned, constitution

from keel.critique.ask import Ask
from keel.critique.local import LocalWriter
from keel.critique.rules import RuleCritic
from keel.critique.templates import load_template
from keel.judges.ask import Question
from keel.judges.config import LocalConfig
from keel.judges.local import LocalJudge, load_local
from keel.rewards.constitution.scoring import Scorer
from keel.types import Candidate, Message, Prompt, Rollout, SampleRequest

LONG = "word " * 60_000  # no model here reads that much
VERDICT = '{"critique": "It says red.", "violates": true, "severity": 3}'


class Counting:
    """A sampler that says the same of everything, and nothing at all of what it is told to ``lose``."""

    def __init__(self, text: str = VERDICT, lose: bool = False) -> None:
        self.text, self.lose, self.requests = text, lose, list[SampleRequest]()

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        self.requests = list(requests)

    def collect(self) -> Iterator[Rollout]:
        one = torch.ones(1, dtype=torch.int64)
        for r in [] if self.lose else self.requests:
            yield Rollout(r.prompt_id, 0, r.first_sample, one, one.bool(), torch.zeros(1), one, "stop", self.text)

    def load(self, version: Any, weights: Any) -> None: ...


@pytest.fixture(scope="module")
def here() -> LocalJudge:
    return load_local("here", LocalConfig(model="tiny:llama?seed=1", model_options={"precision": "fp32"}, max_tokens=16))


def test_a_model_here_counts_what_it_was_asked(here: LocalJudge) -> None:
    """The same call twice is one; a call that cannot be shown, or got no reply, is none; a reply that is no critique was a call."""
    principle = constitution(banned("no_red", "red")).principles[0]
    asks = [Ask("critique", asked("q"), text, principle) for text in ("red", "red", LONG, "blue")]
    templates = {kind: load_template(f"{kind}_en") for kind in ("critique", "revision")}
    for text, lose, made in (
        (VERDICT, False, [True, False, False, True]),
        ("It does.", False, [True, False, False, True]),
        ("", True, [False] * 4),
    ):
        sampler = Counting(text, lose)
        wrote = LocalWriter("m", here.renderer, sampler, templates, 16, 0.0).write(asks)  # type: ignore[arg-type]
        assert [w.made for w in wrote] == made
        assert lose or sum(w.made for w in wrote) == len(sampler.requests) == 2
        assert wrote[2].error.startswith("call: ")
        assert bool(wrote[0].error) == (text != VERDICT)


def test_a_local_judge_counts_what_it_was_asked(here: LocalJudge) -> None:
    kept = here._sampler
    try:
        for lose in (False, True):
            here._sampler = sampler = Counting('{"ranking": ["A", "B"]}', lose)
            questions = [
                Question(Prompt("p", (Message("user", q),)), (Candidate("a", "x"), Candidate("b", "y")), "ranking") for q in ("q", LONG)
            ]
            said = here.ask(questions)
            assert [s.made for s in said] == [not lose, False]
            assert len(sampler.requests) == 1
            assert said[1].error.startswith("call: ")
    finally:
        here._sampler = kept


def test_rules_are_no_calls_also_where_they_say_nothing() -> None:
    found = constitution(
        banned("no_red", "red"),
        {"name": "kind", "text": "It is kind.", "scorer": {"type": "rule", "path": ""} | banned("x", "x")["scorer"]},
    )
    critic = RuleCritic(Scorer(found))
    known, other = found.principles
    asks = [Ask("critique", asked("q"), "red", known), Ask("revision", asked("q"), "red", known)]
    asks.append(Ask("critique", asked("q"), "red", other.model_copy(update={"name": "unknown"})))
    wrote = critic.write(asks)
    assert [w.made for w in wrote] == [False] * 3
    assert [bool(w.error) for w in wrote] == [False, True, True]
