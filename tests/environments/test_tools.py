"""Tools: schemas from signatures, arguments that are checked, calls that go wrong and are told so."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from transformers.utils import get_json_schema

from keel.core.errors import UserError
from keel.environments.parse import Parser
from keel.environments.tools import Call, run, tool_of, tools_text
from keel.types import Reply


def weather(city: str, days: int = 3, unit: Literal["C", "F"] = "C", tags: list[str] | None = None) -> str:
    """Tell the weather
    of a city.

    Args:
        city: Its name,
            as people write it.
        days (int): How many days.
        unit: Of the temperature.

    Returns:
        A sentence.
    """
    if city == "Nowhere":
        raise KeyError("no such city")
    return f"{city} {days} {unit} {tags}"


def area(width: float, height: float) -> float:
    """Multiply two lengths.

    Args:
        width: How wide.
        height: How high.
    """
    return width * height


TOOLS = {t.name: t for t in map(tool_of, (weather, area))}


def test_a_schema_is_made_of_signature_and_docstring():
    function = TOOLS["weather"].schema["function"]
    assert function["description"] == "Tell the weather of a city."
    assert function["parameters"]["required"] == ["city"]
    properties = function["parameters"]["properties"]
    assert properties["city"] == {"type": "string", "description": "Its name, as people write it."}
    assert properties["days"] == {"type": "integer", "description": "How many days.", "default": 3}
    assert properties["unit"]["enum"] == ["C", "F"]
    assert properties["tags"]["anyOf"][0] == {"type": "array", "items": {"type": "string"}}


def test_a_plain_schema_is_that_of_transformers():
    theirs = get_json_schema(area)
    theirs["function"].pop("return")  # what a tool gives back is seen when it does
    assert TOOLS["area"].schema == theirs


def test_what_cannot_be_told_is_no_tool():
    def silent(a: int) -> int:
        return a

    def untyped(a) -> int:
        """Says what it does."""
        return a

    def spread(*numbers: int) -> int:
        """Says what it does."""
        return sum(numbers)

    for function, word in ((silent, "docstring"), (untyped, "no type"), (spread, "by name")):
        with pytest.raises(UserError, match=word):
            tool_of(function)


@pytest.mark.parametrize(
    ("call", "text", "bad"),
    [
        (Call("weather", {"city": "Rom"}), "Rom 3 C None", False),
        (Call("area", {"width": "2", "height": 1.5}), "3.0", False),
        (Call("weather", {"city": "Nowhere"}), "error: KeyError: 'no such city'", False),
        (Call("weather", {}), "error: weather: argument 'city' is missing; it takes: city, days, unit, tags", True),
        (Call("area", {"width": 1, "hight": 2}), "error: area: unknown argument 'hight'; argument 'height' is missing", True),
        (Call("area", {"width": "wide", "height": 2}), "error: area: argument 'width': Input should be a valid number", True),
        (Call("wether", {}), "error: there is no tool 'wether'; tools are: weather, area", True),
        (Call(error="the tool call is no JSON"), "error: the tool call is no JSON", True),
    ],
)
def test_a_call_is_answered_whatever_it_is(call, text, bad):
    result = run(TOOLS, call)
    assert result.message.role == "tool"
    assert result.message.text.startswith(text)
    assert result.bad == bad


def test_a_tool_may_reward_and_end():
    def finish(answer: int) -> Reply:
        """Give the answer."""
        return Reply("noted", reward=float(answer), done=True)

    result = run({"finish": tool_of(finish)}, Call("finish", {"answer": 2}))
    assert result.message.text == "noted"
    assert result.reply is not None
    assert (result.reply.reward, result.reply.done) == (2.0, True)


SCHEMAS = [t.schema for t in TOOLS.values()]


def parsed(text: str, tokenizer: Any = None):
    return Parser(tokenizer)(text, text, "", SCHEMAS)


def test_tags_are_read():
    found = parsed(
        '<think>\nhm\n</think>\n\nLet me see. <tool_call>{"name": "area", "arguments": {"width": 1, "height": 2}}</tool_call>'
        '<tool_call>\n{"name": "weather", "parameters": "{\\"city\\": \\"Rom\\"}"}\n</tool_call>'
    )
    assert found.calls == (Call("area", {"width": 1, "height": 2}), Call("weather", {"city": "Rom"}))
    assert found.message.text == "Let me see."
    assert found.message.extra["reasoning_content"] == "hm"
    assert [c["function"]["name"] for c in found.message.extra["tool_calls"]] == ["area", "weather"]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{broken</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "area"',
        '<tool_call>{"name": 3}</tool_call>',
        "<tool_call>",
    ],
)
def test_calls_that_cannot_be_read_are_calls_with_an_error(text):
    (call,) = parsed(text).calls
    assert call.error


def test_without_tools_there_are_no_calls():
    found = Parser(None)("<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", "", [])
    assert found.calls == ()
    assert found.message.text == "<tool_call>{}</tool_call>"


class Own:
    """A tokenizer that parses answers itself."""

    response_template = "some template"

    def parse_response(self, response: str, prefix: str, tools: Any) -> dict[str, Any]:
        if response == "?":
            raise ValueError("not this way")
        call = {"type": "function", "function": {"name": "area", "arguments": {"width": 1, "height": 2}}}
        return {"role": "assistant", "content": response, "tool_calls": [call], "reasoning_content": "so"}


def test_the_tokenizers_own_parser_goes_first():
    found = parsed("hello", Own())
    assert found.calls == (Call("area", {"width": 1, "height": 2}),)
    assert (found.message.text, found.message.extra["reasoning_content"]) == ("hello", "so")
    (call,) = parsed("?", Own()).calls
    assert "not this way" in call.error


def test_tools_in_words_hold_their_schemas():
    text = tools_text(SCHEMAS)
    assert '"name": "area"' in text
    assert "<tool_call>" in text
