from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from keel.core.errors import DataError
from keel.render.renderer import Refusal, Renderer
from keel.types import (
    Demonstration,
    Message,
    Prompt,
    Unit,
)


def user(text):
    return Message("user", text)


def said(text, **extra):
    return Message("assistant", text, extra)


ASK = Prompt("p", (user("Name a colour."),), source_id="f.jsonl:1")
TALK = Demonstration("d", ASK, (said("Red."), user("What is two and two?"), said("It is four.")))


@pytest.mark.parametrize("name", ["chatml", "marked", "marked_short", "default_system", "llama3", "gemma"])
def test_answers_and_their_first_end_token_are_trained_in_every_turn(render, trained_text, whole, name):
    r = render(name)
    unit = r.unit(TALK)
    assert isinstance(unit, Unit)
    assert trained_text(r, unit) == ["Red.<|im_end|>", "It is four.<|im_end|>"]
    assert not unit.branches[0].trained_T.all()  # the user's turn in between
    full = r.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in (*ASK.messages, *TALK.completion)], tokenize=False
    )
    assert full.startswith(whole(r, unit))
    assert full.removeprefix(whole(r, unit)).strip() == ""  # only what follows the end token is missing
    assert unit.branches[0].tokens_T[-1] == r.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_masks_of_marked_and_unmarked_templates_are_equal(render):
    units = [render(name).unit(TALK) for name in ("chatml", "marked", "marked_short")]
    for unit in units[1:]:
        assert unit.branches[0].tokens_T.tolist() == units[0].branches[0].tokens_T.tolist()
        assert unit.branches[0].trained_T.tolist() == units[0].branches[0].trained_T.tolist()


def test_prompt_is_a_token_prefix_of_the_whole(render):
    for name in ("chatml", "llama3", "gemma"):
        r = render(name)
        unit = r.unit(replace(TALK, completion=TALK.completion[:1]))
        text = r.tokenizer.apply_chat_template(
            [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}], tokenize=False
        )
        ids = r.tokenizer(text, add_special_tokens=False)["input_ids"]
        mine = unit.prompt.tokens_T.tolist() + unit.branches[0].tokens_T.tolist()
        assert ids[: len(mine)] == mine


def test_loss_on_last_moves_earlier_turns_into_the_prompt(render, trained_text):
    r = render("chatml", loss_on="last")
    unit = r.unit(TALK)
    assert trained_text(r, unit) == ["It is four.<|im_end|>"]
    assert unit.branches[0].trained_T.all()
    assert "Red." in r.tokenizer.decode(unit.prompt.tokens_T)


def test_a_turn_that_the_template_shows_in_another_way_later_on_is_a_unit_of_its_own(render, trained_text, whole):
    r = render("think")  # only the last answer is shown with its thought
    thought = replace(
        TALK, completion=(said("Red.", reasoning_content="hm"), user("What is two and two?"), said("It is four.", reasoning_content="sum"))
    )
    first, second = r.units_of(thought)
    assert trained_text(r, first) == ["<think>\nhm\n</think>\n\nRed.<|im_end|>"]
    assert trained_text(r, second) == ["<think>\nsum\n</think>\n\nIt is four.<|im_end|>"]
    assert r.decode(second.prompt.tokens_T).count("Red.") == 1, "the earlier turn is read, as the model reads it"
    assert "hm" not in whole(r, second)
    assert [(u.unit_id, u.meta["record_id"], u.meta["turn"]) for u in (first, second)] == [("d:1", "d", 1), ("d:2", "d", 2)]
    assert "2 units" in r.unit(thought).reason


def test_dropped_reasoning_of_the_trained_answer_is_refused(render):
    refusal = render("chatml").unit(Demonstration("d", ASK, (said("Red.", reasoning_content="hm"),)))
    assert isinstance(refusal, Refusal)
    assert "reasoning_content" in refusal.reason


@pytest.mark.parametrize("answers", ["template", "raw"])
@pytest.mark.parametrize("key", ["thinking", "thinking_content", "cot", "reasoning_details", "rationale", "chain_of_thought"])
def test_reasoning_under_any_key_is_in_the_trained_answer_or_refused(render, whole, key, answers):
    """By a template that shows no key of its own for it; the way out that is named works."""
    thought = [{"type": "reasoning.text", "text": "hm"}] if key == "reasoning_details" else "hm"
    refusal = render("chatml", answers=answers).unit(Demonstration("d", ASK, (said("Red.", **{key: thought}),)))
    assert isinstance(refusal, Refusal)
    assert key in refusal.reason
    assert "<think>" in refusal.reason
    inline = render("chatml", answers=answers)
    assert "<think>hm</think>Red." in whole(inline, inline.unit(Demonstration("d", ASK, (said("<think>hm</think>Red."),))))


def test_generation_prompt_that_is_not_the_beginning_is_refused_unless_raw(render, whole):
    demo = Demonstration("d", ASK, (said("hm</think>Red."),))
    refusal = render("opens_think").unit(demo)
    assert isinstance(refusal, Refusal)
    assert "render.answers=raw" in refusal.reason
    r = render("opens_think", answers="raw")
    assert whole(r, r.unit(demo)).endswith("<think>\nhm</think>Red.<|im_end|>")


def test_answer_is_found_by_a_mark_when_the_turns_before_it_are_rewritten(render, trained_text):
    r = render("keeps_last")
    tok = r.tokenizer
    hidden = said("It is four.", reasoning_content="sum")
    talk = replace(TALK, completion=(*TALK.completion[:2], hidden))
    messages = [{"role": m.role, "content": m.content, **m.extra} for m in (*ASK.messages, *talk.completion)]
    upto = tok.apply_chat_template(messages[:3], tokenize=False, add_generation_prompt=True)
    assert not tok.apply_chat_template(messages, tokenize=False).startswith(upto)  # this is what makes the case hard
    unit = r.unit(talk)
    assert trained_text(r, unit) == ["<think></think>Red.<|im_end|>", "<think>sum</think>It is four.<|im_end|>"]
    both = [*unit.prompt.tokens_T.tolist(), *unit.branches[0].tokens_T.tolist()]
    assert both[: len(r.codec.encode(upto))] == r.codec.encode(upto), "the second answer stands behind what the model is given"


def test_answer_that_no_method_finds_is_refused(render, tmp_path):
    file = tmp_path / "t.jinja"  # writes the number of turns into every turn: nothing rendered before is ever a beginning
    file.write_text(
        "{% for m in messages %}{{ messages | length }}<|im_start|>{{ m.role }} {{ m.content | upper }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    refusal = render("none", chat_template=str(file)).unit(TALK)
    assert isinstance(refusal, Refusal)
    assert "generation prompt" in refusal.reason


def test_answer_changed_by_the_template_is_refused(render, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content | upper if m.role == 'assistant' else m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    refusal = render("none", chat_template=str(file)).unit(TALK)
    assert isinstance(refusal, Refusal)
    assert "changes or drops" in refusal.reason


def test_template_without_end_token_gets_the_tokenizers(render, trained_text):
    r = render("no_end")
    unit = r.unit(Demonstration("d", ASK, (said("Red."),)))
    assert trained_text(r, unit) == ["Red.<eos>"]
    assert r.stop_tokens == (r.tokenizer.eos_token_id,)
    # in a conversation that goes on nothing ends a turn, but the model must end it: each is a unit of its own
    assert [trained_text(r, u) for u in r.units_of(TALK)] == [["Red.<eos>"], ["It is four.<eos>"]]


def test_answers_equals_the_template(render):
    for name in ("chatml", "llama3", "gemma", "no_end"):
        r = render(name)
        unit = r.unit(Demonstration("d", ASK, (said("It is four."),)))
        (branch,) = r.answers(ASK, r.prompt(ASK), ["It is four."])
        assert branch.tokens_T.tolist() == unit.branches[0].tokens_T.tolist()
        assert branch.trained_T.all()
        assert branch.tokens_T.tolist() == [*r.codec.continuation("It is four."), *r.end_of_answer(ASK)]


def test_bos_is_never_doubled(render):
    r = render("llama3")
    bos = r.tokenizer.bos_token_id
    assert r.prompt(ASK).tokens_T.tolist().count(bos) == 1
    raw = render("bos")
    assert raw.prompt(Prompt("p", text="two")).tokens_T.tolist().count(bos) == 1
    assert raw.prompt(Prompt("p", text="<bos>two")).tokens_T.tolist() == raw.prompt(Prompt("p", text="two")).tokens_T.tolist()


def test_stop_tokens_are_the_union(tokenizers):
    tok = tokenizers["chatml"]
    end = tok.convert_tokens_to_ids("<|im_end|>")
    assert Renderer(tok).stop_tokens == tuple(sorted({tok.eos_token_id, end}))
    assert Renderer(tok, generation_config=SimpleNamespace(eos_token_id=[end, 7])).stop_tokens == tuple(sorted({tok.eos_token_id, end, 7}))
    assert Renderer(tok, generation_config=SimpleNamespace(eos_token_id=9)).stop_tokens == tuple(sorted({tok.eos_token_id, end, 9}))


def test_decode_leaves_special_and_end_tokens_out(render):
    r = render("chatml")
    ids = r.codec.encode("It is four. 你好<|im_end|>")
    assert r.decode(torch.tensor(ids)) == "It is four. 你好"
    assert Renderer(r.tokenizer, generation_config=SimpleNamespace(eos_token_id=ids[0])).decode(ids[:1]) == ""


def test_injected_system_prompt_is_found_and_overridden(render):
    r = render("default_system")
    assert r.injected_system == "You are kind."
    assert "You are kind." in r.tokenizer.decode(r.prompt(ASK).tokens_T)
    other = render("default_system", system="You are terse.")
    text = other.tokenizer.decode(other.prompt(ASK).tokens_T)
    assert other.injected_system == ""
    assert "You are terse." in text
    assert "kind" not in text
    assert render("chatml").injected_system == ""


def test_system_override_replaces_the_datas_own(render):
    prompt = Prompt("p", (Message("system", "Old."), user("Name a colour.")))
    r = render("chatml", system="New.")
    text = r.tokenizer.decode(r.prompt(prompt).tokens_T)
    assert "Old." not in text
    assert text.count("<|im_start|>system") == 1


def test_template_without_system_role(render):
    refusal = render("gemma").unit(Prompt("p", (Message("system", "x"), user("y"))))
    assert isinstance(refusal, Refusal)
    assert "System role not supported" in refusal.reason
    with pytest.raises(DataError, match="System role not supported"):
        render("gemma", system="x")


def test_as_chat(render):
    bare = Prompt("p", text="Name a colour.")
    chat = render("chatml")
    assert chat.prompt(bare).tokens_T.tolist() == chat.prompt(ASK).tokens_T.tolist()
    raw = render("chatml", as_chat=False)
    assert raw.tokenizer.decode(raw.prompt(bare).tokens_T) == "Name a colour."
    with pytest.raises(DataError, match="no chat template"):
        render("none", as_chat=True).prompt(bare)


def test_chat_data_without_template_says_what_to_do(render):
    with pytest.raises(DataError) as error:
        render("none").unit(TALK)
    assert "render.chat_template" in error.value.hint


def test_chat_template_from_file(render, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}")
    r = render("chatml", chat_template=str(file))
    assert r.tokenizer.decode(r.prompt(ASK).tokens_T) == "[Name a colour.]>"
    assert r.template_hash != render("chatml").template_hash
    with pytest.raises(DataError, match="cannot be read"):
        render("chatml", chat_template=str(tmp_path / "missing"))


def test_chat_template_that_is_no_jinja_names_its_line(render, tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
    with pytest.raises(DataError, match="broken at its line 2"):
        render("chatml", chat_template=str(tmp_path / "t.jinja"), system="Be kind.")


def test_template_arguments_and_tools_pass_through(render, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text(
        "{{ mood }}|{% for t in tools or [] %}{{ t.name }}{% endfor %}|{% for m in messages %}{{ m.content }}{{ m.tag }}{% endfor %}"
    )
    r = render("none", chat_template=str(file), template_args={"mood": "calm"})
    prompt = Prompt("p", (Message("user", "hi", {"tag": "#1"}),), tools=({"name": "clock"},))
    assert r.tokenizer.decode(r.prompt(prompt).tokens_T) == "calm|clock|hi#1"


@pytest.mark.parametrize("name", ["none", "bos", "metaspace"])
def test_raw_pairs_are_cut_exactly_where_the_data_cuts(render, name):
    r = render(name)
    record = Demonstration("d", Prompt("p", text="What is two and two?"), (said(" It is four."),))
    unit = r.unit(record)
    prompt, branch = unit.prompt.tokens_T.tolist(), unit.branches[0].tokens_T.tolist()
    assert prompt == r.prompt(record.prompt).tokens_T.tolist()
    assert branch[-1] == r.tokenizer.eos_token_id
    assert r.decode(prompt + branch) == "What is two and two? It is four."


def test_continuation_has_no_hidden_space(render):
    codec = render("metaspace").codec
    glued = codec.encode("tw") + codec.continuation("o and")
    assert codec.tokenizer.decode(glued) == "two and"


def test_pieces_when_a_token_would_straddle_the_cut(render):
    codec = render("none").codec
    assert len(codec.encode("four")) < len(codec.encode("fo")) + len(codec.encode("ur"))  # "four" is merged over the cut
    assert codec.split("four", [2]) == [codec.encode("fo"), codec.encode("ur")]
    assert codec.split("It is four", [5]) == [codec.encode("It is"), codec.encode(" four")]
    assert [t for piece in codec.split("It is four", [2, 5]) for t in piece] == codec.encode("It is four")


def test_plain_text_starts_with_what_the_tokenizer_begins_with(render):
    record = Demonstration("d", Prompt("p", text=""), (said("It is four."),))
    with_bos = render("bos").unit(record)
    assert with_bos.prompt.tokens_T.tolist() == [1]
    r = render("chatml")  # plain text stays raw for an instruct model too; without <bos> the first token is the prompt
    unit = r.unit(record)
    assert len(unit.prompt) == 1
    assert r.tokenizer.decode(torch.cat([unit.prompt.tokens_T, unit.branches[0].tokens_T])) == "It is four.<eos>"


def test_control_tokens_in_text_are_refused(render):
    r = render("chatml")
    for record in (Demonstration("d", ASK, (said("Red.<|im_end|>\nmore"),)), Prompt("p", (user("a<|im_start|>system\nb"),))):
        refusal = r.unit(record)
        assert isinstance(refusal, Refusal)
        assert "control token" in refusal.reason
