"""Records as units: limits, targets of every kind, pairs of one prompt, what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from keel.core.errors import DataError
from keel.render.branches import _up_to_end
from keel.render.config import RenderConfig
from keel.render.limits import context_length
from keel.render.renderer import Refusal, Renderer
from keel.render.targets import labels_to_units, pairs_to_units
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


LONG = "It is two. " * 6


@pytest.mark.parametrize("limit", ["max_completion", "max_total"])
def test_preferences_between_answers_that_the_cut_makes_equal_are_refused(render, limit):
    room = 12 + (len(render("chatml").prompt(ASK)) if limit == "max_total" else 0)
    r = render("chatml", over_long="cut_completion", **{limit: room})
    a, b, c = (said(LONG + "Red."),), (said(LONG + "Blue."),), (said("Red."),)
    pairs = [Pair("1", ASK, a, b), Pair("2", ASK, a, c), Pair("3", ASK, b, a, label=0.5, tie=1.0)]
    (unit,), refused = pairs_to_units(r, pairs)
    assert [x.record_id for x in refused] == ["1", "3"]
    assert "same tokens" in refused[0].reason
    assert unit.target.edges == (Edge(0, 1),)
    assert isinstance(render("chatml").unit(pairs[0]), Unit), "the way out: more room"
    for record in (pairs[0], Ranking("r", ASK, (a, b, c), (1, 2, 3))):
        refusal = r.unit(record)
        assert isinstance(refusal, Refusal)
        assert "render.max_completion" in refusal.reason
    assert isinstance(r.unit(Ranking("r", ASK, (a, b, c), (1, 1, 3))), Unit), "equal answers of equal rank"


def test_pairs_that_the_template_makes_equal_are_refused(render):
    for name in ("llama3", "gemma"):  # white space around contents is trimmed
        units, refused = pairs_to_units(render(name), [Pair("1", ASK, (said("Red."),), (said("  Red.\n"),))])
        assert (units, len(refused)) == ([], 1)


def test_labels_about_what_was_cut_away_are_refused(render):
    r = render("chatml", over_long="cut_completion", max_completion=12)
    good, bad, short = (said(LONG + "Red."),), (said(LONG + "Blue."),), (said("Red."),)
    answers = [Unpaired("1", ASK, good, True), Unpaired("2", ASK, bad, False), Unpaired("3", ASK, short, True)]
    units, refused = labels_to_units(r, answers)
    assert ([u.unit_id for u in units], [x.record_id for x in refused]) == (["3"], ["1", "2"])
    rated = [Rating("1", ASK, good, {"s": 1.0}), Rating("2", ASK, bad, {"s": 1.0}), Rating("3", ASK, short, {"s": 1.0})]
    assert len(labels_to_units(r, rated)[0]) == 3, "the labels agree"
    votes = [Unpaired("1", ASK, short, True), Unpaired("2", ASK, short, False)]
    assert len(labels_to_units(r, votes)[0]) == 2, "two votes on one answer: told with the data, and kept"


def test_turns_that_the_file_marks_are_read_and_not_trained(render, trained_text, whole):
    bad, other, good = replace(said("Red."), trained=False), user("Sure?"), said("Blue.")
    for name in ("chatml", "marked", "marked_short", "llama3", "no_end"):
        r = render(name)
        end = "<eos>" if name == "no_end" else "<|im_end|>"
        unit = r.unit(Demonstration("d", ASK, (bad, other, good)))
        assert trained_text(r, unit) == [f"Blue.{end}"]
        assert "Red." in whole(r, unit)
        assert trained_text(r, r.unit(Demonstration("d", ASK, (good, other, bad)))) == [f"Blue.{end}"]
    pair = render("chatml").unit(Pair("x", ASK, (bad, other, good), (bad, other, said("green"))))
    assert [trained_text(r, pair, k) for k in (0, 1)] == [["Blue.<|im_end|>"], ["green<|im_end|>"]]
    nothing = Demonstration("d", ASK, (bad,))
    for config in ({}, {"answers": "raw"}, {"loss_on": "last"}):
        assert "nothing is left to train" in render("chatml", **config).unit(nothing).reason
    last = render("chatml", loss_on="last").unit(Demonstration("d", ASK, (good, other, bad)))
    assert "render.loss_on=all" in last.reason


def test_an_answer_of_several_turns_that_are_shown_in_another_way_cannot_be_compared(render):
    first, other, second = said("Red.", reasoning_content="hm"), user("Sure?"), said("Blue.", reasoning_content="so")
    refusal = render("think").unit(Pair("x", ASK, (first, other, second), (second,)))
    assert "end each answer with its first assistant turn" in refusal.reason
    assert isinstance(render("think").unit(Pair("x", ASK, (first,), (second,))), Unit), "the way out"


def test_a_joint_stands_in_raw_text_and_not_in_a_chat(render, whole, trained_text):
    prompt = Prompt("p", text="The sky is", joint=" ")
    record = Pair("x", prompt, (said("blue."),), (said("black."),))
    raw, chat = render("none"), render("chatml")
    assert whole(raw, raw.unit(record)) == "The sky is blue.<eos>"
    assert trained_text(chat, chat.unit(record)) == ["blue.<|im_end|>"]
    assert trained_text(chat, render("chatml", answers="raw").unit(record)) == ["blue.<|im_end|>"]
    as_asked = render("chatml", as_chat=False)
    assert whole(as_asked, as_asked.unit(record)) == "The sky is blue.<eos>"


def test_no_record_leaves_without_a_name(render):
    """As many units and refusals as records, whatever they are."""
    r = render("chatml", over_long="cut_completion", max_completion=12)
    answers = [said("Red."), said(LONG), said(LONG + "!"), said("a<|im_end|>"), replace(said("no"), trained=False), said("", tool_calls=[])]
    demos = [Demonstration(str(i), ASK, (a,)) for i, a in enumerate(answers)]
    pairs = [Pair(f"{i}{k}", ASK, (a,), (b,)) for i, a in enumerate(answers) for k, b in enumerate(answers) if a != b]
    units, refused = r.units(demos)
    assert sorted([u.unit_id for u in units] + [x.record_id for x in refused]) == sorted(d.record_id for d in demos)
    units, refused = pairs_to_units(r, pairs)
    assert sum(len(u.target.edges) for u in units) + len(refused) == len(pairs)


def test_marks_of_a_template_end_with_the_first_end_token_of_each_run():
    end = 9
    ids = [1, 2, end, 3, 4, 5, 6, end, 7]
    marks = [False, True, True, True, True, False, True, False, False]
    assert _up_to_end(ids, marks, end) == [False, True, True, False, False, False, True, True, False]
