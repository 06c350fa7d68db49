"""Seams between text and tokens that public reports are about: characters of several tokens, closed thoughts, calls made twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keel.render.renderer import Refusal, Renderer
from keel.render.said import missing_call
from keel.types import Demonstration, Message, Prompt

CLOSED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{{ '<think>' if thinking else '</think>' }}"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>' if thinking else '</think>' }}{% endif %}"
)
CALLS_ONCE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_NUMBERS = CALLS_ONCE.replace("{{ m.tool_calls[0].function | tojson }}", "{{ m.tool_calls[0].function.name }} a b")


def demonstration(*turns: Message) -> Demonstration:
    return Demonstration("d", Prompt("p", (Message("user", "What is two and two?"),)), turns)


def calling(*arguments: Any) -> Message:
    return Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": a}} for a in arguments]})


def reason(renderer: Renderer, record: Demonstration) -> str:
    found = renderer.units_of(record)
    assert isinstance(found, Refusal)
    return found.reason


@pytest.mark.parametrize("answer", ["Four.", "café", "四", "一 🎉", "naïve", "🎉🎉"])
@pytest.mark.parametrize("template", ["marked", "marked_short"])
def test_a_last_character_of_several_tokens_is_trained_whole_and_so_is_the_end(render, trained_text, template, answer):
    r = render(template)
    unit = r.unit(demonstration(Message("assistant", answer), Message("user", "And?"), Message("assistant", answer)))
    assert trained_text(r, unit) == [f"{answer}<|im_end|>"] * 2


def test_a_thought_behind_a_closed_one_is_refused_and_the_ways_out_work(render, whole, tmp_path):
    (tmp_path / "t.jinja").write_text(CLOSED)
    settings: dict[str, Any] = {"chat_template": str(tmp_path / "t.jinja")}
    record = demonstration(Message("assistant", "<think>two twice</think>It is four."))
    for answers in ("template", "raw"):
        assert "leave thinking on in render.template_args, or take the thought out" in reason(
            render("chatml", answers=answers, **settings), record
        )
    on = {**settings, "template_args": {"thinking": True}}
    assert "render.answers=raw" in reason(render("chatml", **on), record)
    r = render("chatml", answers="raw", **on)
    assert whole(r, r.unit(record)).endswith("assistant\n<think>two twice</think>It is four.<|im_end|>")
    r = render("chatml", **settings)
    assert whole(r, r.unit(demonstration(Message("assistant", "It is four.")))).endswith("</think>It is four.<|im_end|>")


def test_an_answer_without_the_thought_that_is_opened_for_it_is_told_so(render):
    why = reason(render("opens_think"), demonstration(Message("assistant", "It is four.")))
    assert "write the answer as <think>...</think>" in why


@pytest.mark.parametrize("template", [CALLS_ONCE, NO_NUMBERS])
def test_calls_that_are_made_twice_or_lose_their_numbers_are_refused(render, tmp_path, template):
    (tmp_path / "t.jinja").write_text(template)
    r = render("chatml", chat_template=str(tmp_path / "t.jinja"))
    answer = calling({"a": 2, "b": 31}) if template == NO_NUMBERS else calling({"a": 2}, {"a": 2})
    assert "tool call 'add' of the trained answer" in reason(r, demonstration(answer))
    read = demonstration(replace(answer, trained=False), Message("tool", "5"), Message("assistant", "Five."))
    assert "leaves the tool call 'add' of turn 2 out" in reason(r, read)


def test_numbers_of_calls_are_looked_for_as_json_writes_them():
    turn = calling({"a": 2, "b": 3.5, "c": [True, None, {"d": -7}]})
    assert missing_call(turn, '{"name":"add","arguments":{"a":2,"b":3.5,"c":[true,null,{"d":-7}]}}'.replace('"', "")) is None
    assert missing_call(turn, "{name:add,arguments:{a:2,b:3,c:[true,null,{d:-7}]}}") == "add"


def test_tools_inside_a_turn_must_be_shown(render):
    turn = Message("system", "Help.", {"tools": [{"name": "clock"}]})
    record = replace(demonstration(Message("assistant", "Four.")), prompt=Prompt("p", (turn, Message("user", "When?"))))
    assert "put them into the column 'tools' of the row" in reason(render("chatml"), record)
