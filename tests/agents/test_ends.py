"""How agents end: limits, failures by name, what is asked wrongly or too late, who is waited for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from talking import TINY, Scripted

from keel.core.errors import UserError
from keel.environments.config import EnvironmentConfig
from keel.environments.host import host_of
from keel.methods.credit.conversations import conversation_metrics
from keel.types import Message, Prompt, SamplingParams, empty_group

PROMPT = Prompt("a", (Message("user", "What is 2 + 2?"),))


def yes(prompt_id: str, sample: int, turn: int) -> str:
    return "yes"


def test_what_goes_wrong_is_a_failure_with_a_name_and_its_own_alone(loaded, renderer_of, asking, hold):
    renderer = renderer_of(TINY)
    hows = {
        "never": "the agent ended and had asked for no answer",
        "raises": "the agent raised RuntimeError: no more",
        "dies": "the agent's process died",
        "hangs": "the agent hung: neither a request to answer nor an end for 2 s",
        "loops": "the agent hung: neither a request to answer nor an end for 2 s",
        "nan": "the reward is nan, it must be a finite number",
        "text": "the reward is 'very good', it must be a finite number",
        "control": "RefusedError: 400 None: messages: the world's user turn holds the control token",
    }
    prompts = [
        replace(PROMPT, prompt_id=f"{chr(97 + i)}{how}", meta={"how": how}) for i, how in enumerate((*hows, "well", "behind", "none"))
    ]
    rollouts = hold(asking(renderer, Scripted(loaded, renderer, yes), "wrong", timeout_s=2.0), prompts, samples=1)
    for rollout, said in zip(rollouts, hows.values()):
        assert rollout.error.startswith("environment: ")
        assert said in rollout.error
        assert rollout.finish_reason == "error"
    assert [r.error for r in rollouts[8:]] == ["", "", ""]
    assert [r.conversation.total for r in rollouts[8:]] == [1.0, 1.0, None]  # None is no 0
    groups = [empty_group(PROMPT, renderer.prompt(PROMPT), [rollout]) for rollout in rollouts]
    assert [bool(g.valid_G) for g in groups] == [False] * 8 + [True] * 3
    found = conversation_metrics(groups)
    assert found["environment/failed"] == 8.0
    assert found["environment/agent/refused"] > 10  # those of the one that loops


def test_what_is_asked_wrongly_has_an_error_of_openais_form(loaded, renderer_of, asking, hold):
    renderer = renderer_of(TINY)
    (rollout,) = hold(asking(renderer, Scripted(loaded, renderer, yes), "careless"), [PROMPT], samples=1)
    assert rollout.error == ""
    assert rollout.conversation.turns == 1
    assert rollout.conversation.asking.refused == 15  # two were not this conversation's


def test_limits_have_names(loaded, renderer_of, asking, hold):
    renderer = renderer_of(TINY)
    room = len(renderer.codec.encode("yes")) + 1

    def held(**config):
        arguments = config.pop("arguments", {})
        params = config.pop("params", None)
        return hold(asking(renderer, Scripted(loaded, renderer, yes), "limits", arguments, **config), [PROMPT], 1, params)[0]

    cut = held(max_turns=3)
    assert (cut.conversation.ended, cut.conversation.total, cut.finish_reason) == ("turns", 3.0, "length")
    cut = held(max_tokens=room + 3)
    assert (cut.conversation.ended, cut.conversation.total, len(cut)) == ("tokens", 1.0, room)
    cut = held(arguments={"turns": 2}, max_tokens=room - 1)
    assert (cut.conversation.ended, cut.conversation.total, len(cut)) == ("tokens", 1.0, room - 1)
    cut = held(arguments={"turns": 2}, params=SamplingParams(max_tokens=room - 1, stop_tokens=(3,)))
    assert (cut.conversation.ended, cut.conversation.total) == ("answer", 2.0)  # the agent goes on behind a cut answer
    own = held(arguments={"turns": 2, "max_tokens": room - 1})
    assert (own.conversation.ended, own.finish_reason) == ("done", "stop")  # the agent's own limit cuts nothing that it wanted
    failed = held(arguments={"catch": False}, max_turns=3)
    assert "400 max_turns: messages: the conversation has had its 3 answers (environment.max_turns)" in failed.error


def test_an_evaluation_draws_its_own_way(loaded, renderer_of, asking, hold):
    """An agent that names the training's temperature is no stranger in a greedy evaluation; other values are refused in both."""
    renderer = renderer_of(TINY)
    greedy = SamplingParams(max_tokens=9, temperature=0.0, stop_tokens=(3,))
    usual = replace(greedy, temperature=1.0)
    for temperature, refused in ((0.0, 0), (1.0, 0), (0.5, 1)):
        sampler = asking(renderer, Scripted(loaded, renderer, yes), "limits", {"turns": 2, "temperature": temperature}, usual=usual)
        (rollout,) = hold(sampler, [PROMPT], 1, greedy)
        assert rollout.conversation.asking.refused == refused


def test_one_that_works_by_itself_is_not_waited_for_forever(loaded, renderer_of, asking, hold):
    """The others' turns are drawn without it once it has been away for `wait_s`; its own come when it asks. Nothing drawn changes."""
    renderer = renderer_of(TINY)
    prompts = [replace(PROMPT, prompt_id=str(i), meta={"sleep": 2.0 * (i == 0)}) for i in range(3)]
    waves = []
    for wait_s in (0.2, 30.0):
        inner = Scripted(loaded, renderer, lambda p, s, t: f"{p} {t}")
        rollouts = hold(asking(renderer, inner, "patient", wait_s=wait_s), prompts, samples=1)
        assert [r.error for r in rollouts] == ["", "", ""]
        waves.append(([len(requests) for requests in inner.submitted], [r.tokens_T.tolist() for r in rollouts]))
        assert {r.conversation.asking.timed for r in rollouts} == {wait_s < 1}
    assert [sizes for sizes, _ in waves] == [[3, 2, 2, 1, 1], [3, 3, 3]]
    assert waves[0][1] == waves[1][1]


def test_streams_chunks_and_log_probabilities(loaded, renderer_of, asking, hold):
    renderer = renderer_of(TINY)
    (rollout,) = hold(asking(renderer, Scripted(loaded, renderer, yes), "streams"), [PROMPT], samples=1)
    assert rollout.error == ""
    first = (rollout.turn_T == 0) & rollout.sampled_T
    assert rollout.conversation.reward == pytest.approx(float(rollout.logprobs_T[first].sum()), abs=1e-5)
    assert rollout.conversation.asking.branches == 1  # a streamed answer is gone on from like any other


@pytest.mark.parametrize("given_by", ["endpoint", "environment"])
def test_openais_own_client(loaded, renderer_of, asking, hold, given_by):
    pytest.importorskip("openai", reason="openai is not installed (extra dev)")
    renderer = renderer_of(TINY)
    sampler = asking(renderer, Scripted(loaded, renderer, lambda p, s, t: f"{s}{t} 答"), "library", {"given_by": given_by}, max_turns=9)
    rollouts = hold(sampler, [PROMPT], samples=2)
    assert [r.error for r in rollouts] == ["", ""]
    for rollout in rollouts:
        assert rollout.conversation.turns == 9
        assert rollout.conversation.asking.branches == 3


def test_stop_strings_of_the_run_end_what_is_told(loaded, renderer_of, asking, hold):
    renderer = renderer_of(TINY)
    params = SamplingParams(max_tokens=60, stop=(" END",), stop_tokens=renderer.stop_tokens)
    sampler = asking(renderer, Scripted(loaded, renderer, lambda p, s, t: "one END two"), "plain")
    (rollout,) = hold(sampler, [PROMPT], 1, params)
    assert rollout.conversation.messages[0].text == "one"
    assert rollout.conversation.asking.branches == 1
    assert "two" in renderer.decode(rollout.tokens_T)  # the tokens are all that was drawn


@pytest.mark.parametrize(
    ("name", "more", "word"),
    [
        ("plain", {"processes": 4}, "processes would have no effect"),
        ("plain", {"processes": 0}, "is an agent: each is a process of its own"),
        ("plain", {"describe_tools": False}, "describe_tools would have no effect"),
        ("plain", {"arguments": {"turn": 3}}, "may hold: turns"),
        ("chat", {"arguments": {"seed": 3}}, "'seed' is given to it"),
        ("given", {}, "cannot be made"),
    ],
)
def test_a_users_mistake_is_told_before_anything_is_sampled(name, more, word):
    programs = Path(__file__).parent / "programs.py"
    with pytest.raises(UserError) as raised:
        host_of(EnvironmentConfig(path=f"{programs}:{name}", **more))
    assert word in str(raised.value)


def test_a_system_prompt_of_the_recipe_and_one_of_the_agent(loaded, renderer_of, asking, hold):
    """Neither would be left out without a word."""
    renderer = renderer_of(TINY, system="Be short.")
    sampler = asking(renderer, Scripted(loaded, renderer, yes), "plain")
    said = (Message("system", "Be long."), *PROMPT.messages)
    own, other = hold(sampler, [PROMPT, replace(PROMPT, prompt_id="b", messages=said)], samples=1)
    assert own.error == ""
    assert "render.system stands in place" in other.error


def test_settings_of_agents_are_refused_elsewhere(tmp_path):
    (tmp_path / "w.py").write_text("class W:\n    def __init__(self, prompt, seed): ...\n    def answer(self, message): ...\n")
    for processes in (0, 2):
        with pytest.raises(UserError, match=r"environment.wait_s would have no effect.*is no agent"):
            host_of(EnvironmentConfig(path=f"{tmp_path}/w.py:W", processes=processes, wait_s=1.0))


def test_prompts_with_images_are_refused_by_name(loaded, renderer_of, asking):
    from keel.types import ImagePart

    sampler = asking(renderer_of(TINY), None, "plain")
    (refused,) = sampler.opener([Prompt("i", (Message("user", (ImagePart("x.png"),)),))])
    assert "no images" in refused.reason
