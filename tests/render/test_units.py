"""Records as units: limits, targets of every kind, pairs of one prompt, what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from keel.errors import DataError
from keel.render.config import RenderConfig
from keel.render.limits import context_length
from keel.render.renderer import Refusal, Renderer
from keel.render.targets import pairs_to_units
from keel.types import (
    Candidate,
    Comparison,
    Demonstration,
    Edge,
    ImagePart,
    Message,
    Pair,
    PairTarget,
    Prompt,
    Ranking,
    RankingTarget,
    Rating,
    RatingTarget,
    Steps,
    StepsTarget,
    TextPart,
    Unit,
    Unpaired,
    UnpairedTarget,
)


def user(text):
    return Message("user", text)


def said(text, **extra):
    return Message("assistant", text, extra)


ASK = Prompt("p", (user("Name a colour."),), source_id="f.jsonl:1")


def test_limits_refuse_by_default_and_cut_only_by_name(render):
    demo = Demonstration("d", ASK, (said("It is four. It is four."),))
    free = render("chatml").unit(demo)
    p, c = len(free.prompt), len(free.branches[0])
    assert isinstance(render("chatml", max_prompt=p, max_completion=c, max_total=p + c).unit(demo), Unit)
    for limit in ({"max_prompt": p - 1}, {"max_completion": c - 1}, {"max_total": p + c - 1}):
        refusal = render("chatml", **limit).unit(demo)
        assert isinstance(refusal, Refusal)
        assert next(iter(limit)) in refusal.reason
    cut = render("chatml", max_completion=c - 1, over_long="cut_completion").unit(demo)
    assert cut.branches[0].tokens_T.tolist() == free.branches[0].tokens_T.tolist()[:-1]  # no end token is taught in mid-sentence


def test_drop_turns_takes_whole_old_exchanges(render):
    long = Prompt("p", (Message("system", "S."), user("one"), said("a"), user("two"), said("b"), user("three")))
    r = render("chatml")
    target = len(r.prompt(Prompt("q", (Message("system", "S."), user("three")))))
    short = render("chatml", max_prompt=target, over_long="drop_turns")
    text = short.tokenizer.decode(short.prompt(long).tokens_T)
    assert text == "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(DataError, match="max_prompt"):
        render("chatml", max_prompt=target - 1, over_long="drop_turns").prompt(long)


def test_drop_turns_keeps_prompt_and_answer_together(render, whole):
    long = Prompt("p", (user("one"), said("a"), user("three")))
    r = render("chatml")
    n = len(r.prompt(Prompt("q", (user("three"),))))
    unit = render("chatml", max_prompt=n, over_long="drop_turns").unit(Demonstration("d", long, (said("Red."),)))
    assert whole(r, unit) == "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nRed.<|im_end|>"


def test_targets_of_every_kind(render, trained_text):
    r = render("chatml")
    a, b = (said("Red."),), (said("Blue."),)
    pair = r.unit(Pair("x", ASK, a, b, margin=0.5, label=0.75, weight=2.0))
    assert pair.target == PairTarget((replace(pair.target.edges[0], winner=0, loser=1, label=0.75, margin=0.5, weight=2.0),))
    assert [trained_text(r, pair, k) for k in (0, 1)] == [["Red.<|im_end|>"], ["Blue.<|im_end|>"]]
    assert r.unit(Ranking("x", ASK, (a, b, a), (1, 2, 1))).target == RankingTarget((1, 2, 1))
    assert r.unit(Rating("x", ASK, a, {"helpful": 3.0})).target == RatingTarget(({"helpful": 3.0},))
    assert r.unit(Unpaired("x", ASK, a, False)).target == UnpairedTarget((False,), (1.0,))
    prompt = r.unit(replace(ASK, meta={"topic": "colour"}))
    assert prompt.branches == ()
    assert prompt.meta == {"topic": "colour", "prompt_id": "p", "source_id": "f.jsonl:1"}


def test_steps_end_where_each_step_ends(render):
    r = render("chatml")
    unit = r.unit(Steps("x", ASK, ("It is two.", "It is four."), (True, False)))
    tokens = unit.branches[0].tokens_T.tolist()
    assert isinstance(unit.target, StepsTarget)
    (first, second), labels = unit.target.ends[0], unit.target.labels[0]
    assert r.tokenizer.decode(tokens[: first + 1]) == "It is two.\n"
    assert r.tokenizer.decode(tokens[first + 1 : second]) == "It is four."
    assert tokens[second:] == [r.tokenizer.convert_tokens_to_ids("<|im_end|>")], "the last step is read at the answer's end"
    assert labels == (True, False)


def test_pairs_of_one_prompt_share_prompt_and_branches(render):
    r = render("chatml")
    a, b, c = ((said(t),) for t in ("Red.", "Blue.", "green"))
    other = Prompt("q", (user("What is two and two?"),))
    pairs = [Pair("1", ASK, a, b), Pair("2", ASK, c, a, label=0.6), Pair("3", other, b, c)]
    units, refusals = pairs_to_units(r, pairs)
    assert refusals == []
    assert [len(u.branches) for u in units] == [3, 2]
    assert [(e.winner, e.loser, e.label) for e in units[0].target.edges] == [(0, 1, 1.0), (2, 0, 0.6)]
    assert units[1].unit_id == "3"


def test_a_refused_answer_takes_only_its_own_pairs_with_it(render, trained_text):
    r = render("chatml", max_completion=12)
    a, b, c, long = (said(t) for t in ("Red.", "Blue.", "green", "It is four. " * 9))
    pairs = [
        Pair("1", ASK, (long,), (a,)),
        Pair("2", ASK, (a,), (b,), 0.5, 0.75, 2.0),
        Pair("3", ASK, (c,), (long,)),
        Pair("4", ASK, (c,), (a,)),
    ]
    (unit,), refused = pairs_to_units(r, pairs)
    assert [trained_text(r, unit, k) for k in range(3)] == [["Red.<|im_end|>"], ["Blue.<|im_end|>"], ["green<|im_end|>"]]
    assert unit.target.edges == (Edge(0, 1, 0.75, 0.5, 2.0), Edge(2, 0))
    assert [x.record_id for x in refused] == ["1", "3"]
    assert len({x.answers for x in refused}) == 1, "one answer, two pairs lost"
    assert "render.max_completion is 12" in refused[0].reason
    both_gone, refused = pairs_to_units(r, pairs[::2])
    assert (both_gone, len(refused)) == ([], 2)
    no_prompt, refused = pairs_to_units(render("chatml", max_prompt=1), pairs)
    assert (no_prompt, [(x.record_id, x.answers) for x in refused]) == ([], [(str(i), ()) for i in (1, 2, 3, 4)])


def test_prompts_are_one_by_content_not_by_id(render):
    r = render("chatml")
    other = Prompt(ASK.prompt_id, (user("What is two and two?"),))
    again = Prompt("another", ASK.messages)
    a, b, c = ((said(t),) for t in ("Red.", "Blue.", "green"))
    units, _ = pairs_to_units(r, [Pair("1", ASK, a, b), Pair("2", other, b, c), Pair("3", again, c, a)])
    assert [len(u.target.edges) for u in units] == [2, 1]


def test_the_models_context_limits_prompts_and_units(tokenizers, render):
    tok = tokenizers["chatml"]
    answer = said("Red.")
    encoded, (branch,) = render("chatml").branches(ASK, [(answer,)])
    n_prompt, n_answer = len(encoded), len(branch)
    record = Demonstration("d", ASK, (answer,))
    assert isinstance(Renderer(tok, context=n_prompt + n_answer).unit(record), Unit)
    refusal = Renderer(tok, context=n_prompt + n_answer - 1).unit(record)
    assert isinstance(refusal, Refusal)
    assert f"the model's context is {n_prompt + n_answer - 1}" in refusal.reason
    assert "context" in Renderer(tok, context=n_prompt - 1).unit(ASK).reason
    cut = Renderer(tok, config=RenderConfig(over_long="cut_completion"), context=n_prompt + 1).unit(record)
    assert len(cut.branches[0]) == 1
    assert len(Renderer(tok, context=n_prompt + 5).prompt(ASK, 5)) == n_prompt
    total = render("chatml", max_total=n_prompt + 4)
    for r, what in ((Renderer(tok, context=n_prompt + 4), "the model's context"), (total, "render.max_total")):
        with pytest.raises(DataError, match=f"{what} is {n_prompt + 4}, 5 of them for the answer"):
            r.prompt(ASK, 5)
    assert context_length(SimpleNamespace(max_position_embeddings=7)) == 7
    assert context_length(SimpleNamespace()) is None
    nested = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=9))
    assert context_length(nested) == 9


def test_refused_records_are_told_from_units(render):
    r = render("chatml", max_completion=4)
    short, long = Demonstration("s", ASK, (said("Red."),)), Demonstration("l", ASK, (said("It is four. " * 9),))
    units, refusals = r.units([short, long])
    assert [u.unit_id for u in units] == ["s"]
    assert [x.record_id for x in refusals] == ["l"]


def test_comparisons_must_become_pairs_first(render):
    two = (Candidate("a", "Red."), Candidate("b", "Blue."))
    comparison = Comparison("c", ASK, two, "first", 1.0, "ann", "pairwise-v1", (0, 1))
    with pytest.raises(DataError, match="comparison records") as error:
        render("chatml").unit(comparison)
    assert "convert.to=pairs" in error.value.hint


def test_images_for_a_text_model_are_refused(render):
    refusal = render("chatml").unit(Prompt("p", (Message("user", (ImagePart("x.png"), TextPart("?"))),)))
    assert isinstance(refusal, Refusal)
    assert "text only" in refusal.reason
