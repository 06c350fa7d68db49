"""A model in this process as judge."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from asking import question, single

from keel.core.errors import ConfigError
from keel.judges.ask import Question
from keel.judges.config import LocalConfig
from keel.judges.local import LocalJudge, load_local
from keel.judges.showing import encoded
from keel.judges.templates import load_template, write
from keel.types import Candidate, Message, Prompt, Rollout, SampleRequest


@pytest.fixture(scope="module")
def judge() -> LocalJudge:
    return load_local("here", LocalConfig(model="tiny:llama?seed=1", model_options={"precision": "fp32"}, max_tokens=24))


def test_the_distribution_is_that_of_the_model(judge: LocalJudge):
    """Against a plain pass over the same tokens, restricted to the labels."""
    q = question()
    said = judge.ask([q])[0]
    written = write(load_template("pairwise_en"), q, "label", judge._controls)
    shown = encoded(judge.renderer, written.messages, 1)
    plain = copy.deepcopy(judge._inference.model.module)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        logits = plain(shown.tokens_T[None]).logits[0, -1].double()
    ids = [judge.renderer.codec.encode(label)[0] for label in written.labels]
    wanted = torch.softmax(logits[ids], 0).tolist()
    assert [said.probabilities[side] for side in ("first", "second", "tie")] == pytest.approx(wanted, abs=1e-5)
    assert said.cost == 0.0
    assert said.tokens == (len(shown), 1)


def test_the_swapped_order_is_another_question(judge: LocalJudge):
    q = question()
    plain, turned = judge.ask([q, q.swapped])
    assert plain.probabilities != turned.probabilities
    renamed = replace(q, answers=q.answers[::-1])
    again = judge.ask([renamed])[0]  # the same text on the screen as `turned`
    assert again.probabilities["first"] == pytest.approx(turned.probabilities["second"], abs=1e-6)


def test_a_score_lies_on_the_scale(judge: LocalJudge):
    said = judge.ask([single("x"), single("y", "rubric", criterion="truth")])
    assert 1 < said[0].scores["overall"] < 10
    assert 1 < said[1].scores["truth"] < 5


def test_control_tokens_of_an_answer_do_not_stop_the_judge(judge: LocalJudge):
    special = judge.renderer.tokenizer.all_special_tokens
    assert special
    said = judge.ask([question(first="fine " + " ".join(special))])[0]
    assert not said.error


def test_a_ranking_is_drawn_and_read_strictly(judge: LocalJudge):
    asked = Question(
        Prompt("p", (Message("user", "Count."),)), tuple(Candidate(str(i), f"t{i}") for i in range(3)), "ranking", order=(2, 0, 1)
    )

    class Says:
        def __init__(self, text: str, finish: str = "stop") -> None:
            self.text, self.finish, self.asked = text, finish, list[SampleRequest]()

        def submit(self, requests):
            self.asked = list(requests)

        def collect(self):
            one = torch.ones(1, dtype=torch.int64)
            for r in self.asked:
                yield Rollout(r.prompt_id, 0, r.first_sample, one, one.bool(), torch.zeros(1), one, self.finish, self.text)

        def load(self, version, weights): ...

    kept = judge._sampler
    try:
        judge._sampler = Says('{"ranking": ["A", ["B", "C"]]}')
        assert judge.ask([asked])[0].ranks == ((2,), (0, 1))
        judge._sampler = Says("A is best")
        assert judge.ask([asked])[0].error.startswith("reply:")
        judge._sampler = Says('{"ranking": ["A", "B", "C"]}', "length")
        assert "no end" in judge.ask([asked])[0].error
    finally:
        judge._sampler = kept
    said = judge.ask([replace(asked, order=(0, 1, 2))])[0]  # by its own sampler: a tiny model writes no JSON
    assert said.error.startswith("reply:")


def test_identity_is_that_of_weights_and_templates(judge: LocalJudge):
    other = load_local("here", LocalConfig(model="tiny:llama?seed=2", model_options={"precision": "fp32"}))
    chinese = LocalJudge("here", LocalConfig(model="x", templates={"pairwise": "pairwise_zh"}), *_of(judge))  # type: ignore[arg-type]
    assert len({judge.identity, other.identity, chinese.identity}) == 3
    assert math.isclose(judge.price([question()]), 0.0)


def _of(judge: LocalJudge):
    from types import SimpleNamespace

    return SimpleNamespace(model=judge._inference.model), judge.renderer


def test_labels_without_tokens_of_their_own(judge: LocalJudge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(judge.renderer.codec), "encode", lambda self, text: (5,) if len(text) == 1 else (1, 2, 3))
    with pytest.raises(ConfigError, match="no token of its own"):
        judge.ask([question()])
