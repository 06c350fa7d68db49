"""Where an answer begins, and that no reward which reads answers sees the thoughts before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from keel.rewards.build import text_source
from keel.rewards.reading.thoughts import answer_of
from keel.rewards.score import NO_ANSWER
from keel.rewards.settings import SegmentsConfig
from keel.rewards.table import RewardConfig, text_reward
from keel.rewards.text import TextSource
from keel.rewards.verifiers.contains import ContainsReward
from keel.rewards.verifiers.regex import RegexReward
from keel.rewards.verifiers.rules import RuleSet, RulesReward

PAIRS = [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("<thought>", "</thought>"),
    ("<THINK>", "</think>"),
    ('<think type="long">', "</think>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"), ("<unused94>thought", "<unused95>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
]  # fmt: skip


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_only_what_follows_the_last_thought_is_an_answer(opening: str, closing: str) -> None:
    assert answer_of(f"{opening}41{closing}42") == "42"
    assert answer_of(f"41{closing}42") == "42"  # opened in the prompt
    assert answer_of(f"{opening}40{closing}41{opening}x{closing}\n42") == "\n42"
    assert answer_of(f"{opening}42{closing}") == ""
    assert answer_of(f"{opening}42") is None
    assert answer_of(f"{opening}41{closing}42{opening}43") is None


def test_text_without_thoughts_is_an_answer_whole() -> None:
    for text in (
        "",
        "42",
        "a < b and b > c",
        "I think so",
        "<b>bold</b>",
        "the analysis is done",
        "Write `</think>` before it",
        'print("<think>")',
    ):
        assert answer_of(text) == text
    assert answer_of('<think>so "42"</think>42') == "42"  # a quotation mark that only touches the marker


META = {
    "exact": {"ground_truth": "7"}, "numeric": {"ground_truth": "7"}, "gsm8k": {"ground_truth": "7"}, "math": {"ground_truth": "7"},
    "choice": {"ground_truth": "B"}, "regex": {"pattern": "good"}, "json_schema": {"schema": {"type": "object"}},
    "ifeval": {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["good"]}]},
    "code": {"tests": ["assert f(1) == 1"]},
    "consistency": {"reference": "star", "objects": ["star"]},
}  # fmt: skip
RIGHT = {
    "choice": "B",
    "regex": "good",
    "json_schema": "{}",
    "ifeval": "good",
    "code": "def f(x): return x",
    "rules": "a good one",
    "contains": "good",
    "consistency": "star",
}
SETTINGS = {"contains": {"words": ["good"]}, "rules": {"rules": {"elements": {"groups": [{"name": "g", "any": ["good"]}]}}}}
SETTINGS["consistency"] = {"words": {"objects": str(Path(__file__).parents[2] / "recipes/vlm/looks.txt")}}


@pytest.mark.parametrize("kind", [*META, "rules", "contains"])
def test_no_reward_of_answers_sees_the_thoughts(kind: str, prompt: Callable) -> None:
    if kind == "code":
        from keel.sandbox.choose import sandbox

        if sandbox()[0] is None:
            pytest.skip("no sandbox")
    if kind == "json_schema":
        pytest.importorskip("jsonschema")
    judge = text_reward(TypeAdapter(RewardConfig).validate_python({"type": kind, "name": "r", **SETTINGS.get(kind, {})}))
    right, asked = RIGHT.get(kind, "7"), prompt(**META.get(kind, {}))
    assert judge(asked, right) == 1.0
    assert judge(asked, f"<think>x {{</think>{right}") == 1.0
    assert judge(asked, f"<think>{right}</think>nothing") == 0.0
    unfinished = judge(asked, f"<think>{right}")
    assert (unfinished, unfinished.reason) == (0.0, NO_ANSWER)  # type: ignore[attr-defined]


def test_every_kind_of_reward_is_tested_or_said_to_read_everything() -> None:
    kinds = {t for c in RewardConfig.__origin__.__args__ for t in TypeAdapter(c).json_schema()["properties"]["type"].get("enum", [None])}  # type: ignore[attr-defined]
    kinds |= {TypeAdapter(c).json_schema()["properties"]["type"].get("const") for c in RewardConfig.__origin__.__args__}  # type: ignore[attr-defined]
    reads_everything = {
        "steps",
        "python",
        "model",
        "remote",
        "finished",
        "hallucination",
        "consistency",
        "rotating",
    }  # rotating: what others said
    tested_elsewhere = {"judge", "constitution", "diversity"}  # test_judge_reward.py, test_constitution.py, test_diversity.py
    assert kinds - {None} == {*META, "rules", "contains", "reasoning_gym", "gaming"} | reads_everything | tested_elsewhere


def test_a_price_for_gaming_is_asked_of_the_answer_alone(prompt: Callable) -> None:
    judge = text_reward(TypeAdapter(RewardConfig).validate_python({"type": "gaming", "name": "g"}))
    asked, again = prompt(), "the same words stand here again and again. " * 30
    assert judge(asked, again) < 0.0
    assert judge(asked, f"<think>{again}</think>It is four.") == 0.0
    assert judge(asked, f"<think>x</think>{again}") == judge(asked, again)


def test_parts_are_those_of_the_answer(prompt: Callable) -> None:
    config = ContainsReward(name="c", words=["good"], segments=SegmentsConfig(by="sentence"))
    source = text_source(config)
    texts = ["<think>Bad. Bad. Bad.</think>Good. Good.", "Good. Bad.", "<think>Good. Good."]
    assert [float(s) for s in source.judge([(prompt(), t) for t in texts])] == [1.0, 0.5, 0.0]
    everything = text_source(config.model_copy(update={"thoughts": True}))
    assert float(everything.judge([(prompt(), texts[0])])[0]) == pytest.approx(2 / 4)  # Bad. / Bad. / Bad.</think>Good. / Good.


def test_thoughts_may_be_looked_at_where_that_is_asked_for(prompt: Callable) -> None:
    form = r"^<think>.*</think>\d+$"
    with pytest.raises(ValidationError, match="set thoughts=true"):
        RegexReward(name="r", pattern=form)
    judge = text_reward(RegexReward(name="r", pattern=form, thoughts=True))
    assert [judge(prompt(), t) for t in ("<think>a</think>42", "42", "<think>a")] == [1.0, 0.0, 0.0]
    own = text_reward(RegexReward(name="r"))(prompt(pattern=form), "42")
    assert math.isnan(own)
    assert "set thoughts=true" in own.error  # type: ignore[attr-defined]
    rules = RuleSet.model_validate({"length": {"bands": [{"high": 2, "score": 1.0}]}})
    assert (
        TextSource("r", text_reward(RulesReward(name="r", rules=rules))).judge([(prompt(), "<think>one two three</think>four")])[0] == 1.0
    )
    assert text_reward(RulesReward(name="r", rules=rules, thoughts=True))(prompt(), "<think>one two three</think>four") == 0.0
