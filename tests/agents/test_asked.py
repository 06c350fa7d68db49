"""Requests of agents as they are read: what they go on from, what they may ask for. No model."""

from __future__ import annotations

import pytest

from keel.agents.asked import check_sampling, history
from keel.serve.policy.requests import RequestError
from keel.types import SamplingParams

CALL = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
ASKED = [{"role": "user", "content": "Hello"}]


def last(*messages, tools=()):
    return history(tools, [*ASKED, *messages])[-1]


def test_a_history_is_what_was_said_however_it_is_written():
    """Clients write null for empty content, arguments as an object, calls with ids of their own."""
    told = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    other = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [{**CALL, "id": "b"}]}
    loose = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"b": 2, "a": 1}}}]}
    assert last(told) == last(other) == last(loose)
    assert history((), [told], history((), ASKED)[-1])[-1] == last(told)


@pytest.mark.parametrize(
    "said",
    [
        {"role": "assistant", "content": "yes "},
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        {"role": "assistant", "content": "yes", "tool_calls": [CALL]},
        {"role": "assistant", "content": "yes", "name": "me"},
    ],
)
def test_another_word_is_another_history(said):
    assert last(said) != last({"role": "assistant", "content": "yes"})


def test_so_are_other_tools():
    said = {"role": "assistant", "content": "yes"}
    assert last(said, tools=[{"type": "function"}]) != last(said)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 3}, "top_k"),
        ({"stop": "x"}, "stop"),
        ({"stop": ["x", "end"]}, "stop"),
        ({"seed": 0}, "seed"),
        ({"logprobs": True, "top_logprobs": 1}, "top_logprobs"),
    ],
)
def test_what_the_run_does_not_draw_is_refused_by_name(body, field):
    drawn = SamplingParams(stop=("end",))
    with pytest.raises(RequestError) as raised:
        check_sampling(body, drawn)
    assert raised.value.param == field


def test_the_runs_own_values_are_no_news():
    drawn = SamplingParams(temperature=0.7, top_p=0.9, stop=("end", "."))
    check_sampling({"temperature": 0.7, "top_p": 0.9, "top_k": 0, "stop": [".", "end"], "seed": None}, drawn)
    check_sampling({"stop": [], "temperature": None}, drawn)
    check_sampling({"temperature": 0.7}, SamplingParams(temperature=0.0), drawn)  # an evaluation
    for params in (drawn, SamplingParams(top_k=4), SamplingParams(explore=0.5)):
        with pytest.raises(RequestError, match="temperature 1"):
            check_sampling({"logprobs": True}, params)
    check_sampling({"logprobs": True}, SamplingParams())
