"""Multiple choice, mathematics, JSON schemas, IFEval's instructions, reasoning-gym: by hand, in both languages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction

import pytest

from keel.core.errors import UserError
from keel.rewards.reading.quantity import read_quantity
from keel.rewards.verifiers import maths
from keel.rewards.verifiers.choice import ChoiceReward, choice, chosen
from keel.rewards.verifiers.gym import GymReward, gym
from keel.rewards.verifiers.ifeval import CHECKS, IFEvalReward, follows, ifeval
from keel.rewards.verifiers.json_schema import JsonSchemaReward, json_schema
from keel.rewards.verifiers.maths import MathReward
from keel.rewards.verifiers.regex import RegexReward, regex

Prompts = Callable[..., object]
OPTIONS = {"A": "red", "B": "green", "C": "dark green", "D": "blue"}


# --- multiple choice --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("B) green", "B"), ("**Answer: B**", "B"), ("The answer is (C).", "C"), ("the answer is: option B", "B"),
        ("I think A is wrong. The correct answer is D", "D"), ("First option: A. No wait, the answer is B", "B"), (r"so \boxed{\text{C}}", "C"),  # noqa: E501
        ("Let me think.\nB", "B"), ("#### A", "A"), ("<answer>D</answer>", "D"), ("答案是B", "B"), ("应选C。", "C"), ("我选择D", "D"),
        ("正确答案：（A）", "A"), ("It is dark green.", "C"), ("A cat sat on it", None), ("The best option is Apple", None), ("", None),
        ("The answer is E", None), ("red or blue", None),
    ],
)  # fmt: skip
def test_the_option_that_a_text_settles_on(text: str, letter: str | None) -> None:
    assert chosen(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("meta", "score"),
    [
        ({"ground_truth": "B"}, 1.0),
        ({"ground_truth": "(b)"}, 1.0),
        ({"ground_truth": "A", "choices": list(OPTIONS.values())}, 0.0),
        ({"ground_truth": 1, "choices": list(OPTIONS.values())}, 1.0),
        ({"ground_truth": "green", "choices": ["A. red", "B. green"]}, 1.0),
        ({"ground_truth": "B", "choices": {"text": ["red", "green"], "label": ["A", "B"]}}, 1.0),
        ({"ground_truth": "purple", "choices": list(OPTIONS.values())}, None),
        ({}, None),
    ],
)
def test_choice_by_letter_index_or_text(meta: dict, score: float | None, prompt: Prompts) -> None:
    found = choice(ChoiceReward(name="c"))(prompt(**meta), "The answer is B.")  # type: ignore[arg-type]
    assert (None if math.isnan(found) else found) == score


# --- mathematics ------------------------------------------------------------------------------------------------------------------

PLAIN = [
    ("1/2", r"So \boxed{\frac{1}{2}}", 1.0),
    ("0.5", "The answer is 1/2.", 1.0),
    ("3", r"\boxed{4}", 0.0),
    ("1,234", "The final answer is 1234", 1.0),
    ("50%", r"\boxed{50\%}", 1.0),
    ("0.333333", r"\boxed{1/3}", 1.0),
    ("2 1/2", r"\boxed{2.5}", 1.0),
    ("-5/3", r"\boxed{-\frac{5}{3}}", 1.0),
    ("She sold 3.\n#### 72", "so 70 + 2.\n#### 72", 1.0),
    ("72", "70 and 2 make 72", 1.0),
    ("12", "no idea at all what this is", 0.0),
    ("42", "答案是42。", 1.0),
    ("1500", "The answer is 1.5e3.", 1.0),
    ("3.5", "It takes 3 1/2 hours", 1.0),
    (r"\boxed{7}", r"first \boxed{6}, no, \boxed{7}", 1.0),
    (r"\boxed{7}", r"\boxed{6}, \boxed{7}", 0.0),  # two answers are none
    (r"x^{2}", r"\boxed{x^{2}}", 1.0),
]


@pytest.mark.parametrize(("truth", "text", "score"), PLAIN)
def test_plain_numbers_need_no_library(truth: str, text: str, score: float, prompt: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths.importlib.util, "find_spec", lambda name: None)
    if (truth, score) == ("12", 0.0):
        pytest.skip("words are the library's")
    assert maths.maths(MathReward(name="m"))(prompt(ground_truth=truth), text) == score  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("truth", "text", "score"),
    [
        *PLAIN,
        (r"\frac{\sqrt{3}}{2}", r"$\boxed{\sqrt{3}/2}$", 1.0),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", 1.0),
        ("x^2+2x+1", r"\boxed{(x+2)^2}", 0.0),
        (r"\{1,2\}", r"\boxed{\{2,1\}}", 1.0),
        (r"\pi/4", r"\boxed{\frac{\pi}{4}}", 1.0),
        ("5", r"It is $x = 5$", 1.0),
    ],
)
def test_expressions_are_equal_or_not(truth: str, text: str, score: float, prompt: Prompts) -> None:
    pytest.importorskip("math_verify")
    assert maths.maths(MathReward(name="m"))(prompt(ground_truth=truth), text) == score  # type: ignore[arg-type]


def test_the_library_is_imported_before_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow import within the first answer's time would look like a hung worker, again and again."""
    imported: list[str] = []
    monkeypatch.setattr(maths.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(maths.importlib, "import_module", imported.append)
    maths.maths(MathReward(name="m"))
    assert imported == ["math_verify"]


def test_what_only_the_library_could_say_is_a_failure_without_it(prompt: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths.importlib.util, "find_spec", lambda name: None)
    found = maths.maths(MathReward(name="m"))(prompt(ground_truth="x^2+2x+1"), r"\boxed{(x+1)^2}")  # type: ignore[arg-type]
    assert math.isnan(found)
    assert "pip install 'keel-align[math]'" in found.error  # type: ignore[attr-defined]


def test_plain_numbers_are_exact() -> None:
    texts = ("1/3", r"\frac{2}{6}", "x", "1/0", "1e5", "$1,000.50$", "123456789012345678901")
    found = [read_quantity(t) for t in texts]
    assert [q and q.value for q in found] == [
        Fraction(1, 3), Fraction(1, 3), None, None, Fraction(100_000), Fraction(2001, 2), Fraction(123456789012345678901),
    ]  # fmt: skip


# --- JSON -------------------------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "score", "reason"),
    [
        ('{"a": 1}', 1.0, "valid"),
        ('Here:\n```json\n{"a": 2}\n```', 1.0, "valid"),
        ('{"a": "x"}', 0.0, "$.a: 'x' is not of type 'integer'"),
        ("{}", 0.0, "$: 'a' is a required property"),
        ("no", 0.0, "not JSON"),
        ('{"a": NaN}', 0.0, "not JSON: NaN is no JSON value"),
        ("[" * 100_000, 0.0, "not JSON"),
        ('{"a": 1, "a": 1}', 0.0, "not JSON: the name 'a' stands twice in one object"),
    ],
)
def test_json_under_a_schema(text: str, score: float, reason: str, prompt: Prompts, tmp_path) -> None:
    pytest.importorskip("jsonschema")
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    for judge, asked in (
        (json_schema(JsonSchemaReward(name="j")), prompt(schema=SCHEMA)),
        (json_schema(JsonSchemaReward(name="j", column="s")), prompt(s=json.dumps(SCHEMA))),
        (json_schema(JsonSchemaReward(name="j", path=str(file))), prompt()),
    ):
        found = judge(asked, text)  # type: ignore[arg-type]
        assert found == score
        assert found.reason.startswith(reason)  # type: ignore[attr-defined]


@pytest.mark.parametrize("schema", [None, {"type": "objec"}, "{", {"$ref": "http://127.0.0.1:9/x.json"}])
def test_a_schema_that_is_none_is_a_failure(schema: object, prompt: Prompts) -> None:
    pytest.importorskip("jsonschema")
    assert math.isnan(json_schema(JsonSchemaReward(name="j"))(prompt(schema=schema), "{}"))  # type: ignore[arg-type]


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the library jsonschema[\s\S]*keel-align\[json\]"):
        json_schema(JsonSchemaReward(name="j"))
    with pytest.raises(UserError, match=r"needs the library reasoning-gym[\s\S]*keel-align\[gym\]"):
        gym(GymReward(name="g"))


# --- IFEval -----------------------------------------------------------------------------------------------------------------------

FOLLOWED = [
    ("keywords:existence", {"keywords": ["Apple", "梨"]}, "an apple, 一个梨", "an apple"),
    ("keywords:frequency", {"keyword": "茶", "frequency": 2, "relation": "at least"}, "茶和茶", "茶"),
    ("keywords:forbidden_words", {"forbidden_words": ["ant", "不好"]}, "pants 很好", "an ant"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "less than"}, "eel", "eerie"),
    ("language:response_language", {"language": "zh"}, "今天天气很好", "The weather is good"),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist nicht der Fall und wird es auch nicht",
        "This is not the case and will not be",
    ),
    ("language:response_language", {"language": "hi"}, "यह एक परीक्षण है", "यह is an English sentence"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "好的。谢谢！", "好的谢谢！"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    ("length_constraints:number_words", {"num_words": 5, "relation": "less than"}, "你好 dear world", "well-known facts of life, dear"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "a\n\nThen b",
        "a\n\nThenceforth",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] 【地址】", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Dear.\nP. S. more", "Dear."),
    ("detectable_content:postscript", {"postscript_marker": "附言"}, "你好。\n附言：再见", "你好。附近"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n- c"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    ("detectable_format:constrained_response", {}, "我的答案是肯定的。", "是的。"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na",
    ),
    ("detectable_format:multiple_sections", {"section_spliter": "部分", "num_sections": 2}, "第一部分\n好\n第2部分", "第一部分"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi!"),
    ("startend:end_checker", {"end_phrase": "Any other question?"}, "Done. any other question?", "Any other question? No"),
    ("startend:quotation", {}, "“你好”", "“你好"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "GOOD and FINE", "GOOD and Fine"),
    ("change_case:english_capital", {}, "THIS IS IT", "THIS is IT"),
    ("change_case:english_lowercase", {}, "this is it", "This is it"),
    ("punctuation:no_comma", {}, "好 and good", "好，good"),
]


@pytest.mark.parametrize(("name", "arguments", "yes", "no"), FOLLOWED)
def test_instructions(name: str, arguments: dict, yes: str, no: str) -> None:
    assert follows(name, arguments, yes)
    assert not follows(name, arguments, no)
    assert not follows(name, arguments, "  ")


def test_every_kind_is_tested() -> None:
    assert {name for name, *_ in FOLLOWED} == set(CHECKS)
    assert len(CHECKS) == 25


def test_all_or_the_share_strict_or_loose(prompt: Prompts) -> None:
    asked = prompt(instruction_id_list=["punctuation:no_comma", "detectable_format:title"], kwargs=[{}, {"num_words": None}])
    text = "Sure, here it is:\n<<Title>>\nAll good"
    assert ifeval(IFEvalReward(name="i"))(asked, text) == 0.0  # type: ignore[arg-type]
    half = ifeval(IFEvalReward(name="i", score="share"))(asked, text)  # type: ignore[arg-type]
    assert (half, half.reason) == (0.5, "not followed: punctuation:no_comma")  # type: ignore[attr-defined]
    assert ifeval(IFEvalReward(name="i", loose=True))(asked, text) == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meta", "error"),
    [
        ({}, "no instructions"),
        ({"instruction_id_list": ["punctuation:no_coma"]}, "did you mean 'punctuation:no_comma'"),
        ({"instruction_id_list": ["keywords:existence"]}, "keywords:existence needs the argument 'keywords'"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]}, "one mapping for each of the 1 instructions"),
        (
            {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 3, "relation": "about"}]},
            "relation 'about' is none of",
        ),
        ({"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "xx"}]}, "'xx' cannot be told"),
    ],
)
def test_instructions_that_cannot_be_checked_are_a_failure(meta: dict, error: str, prompt: Prompts) -> None:
    found = ifeval(IFEvalReward(name="i"))(prompt(**meta), "text")  # type: ignore[arg-type]
    assert math.isnan(found)
    assert error in found.error  # type: ignore[attr-defined]


# --- others -----------------------------------------------------------------------------------------------------------------------


def test_reasoning_gym_scores_its_own_tasks(prompt: Prompts) -> None:
    library = pytest.importorskip("reasoning_gym")
    judge = gym(GymReward(name="g"))
    for name in ("basic_arithmetic", "knights_knaves"):
        entry = library.create_dataset(name, size=1, seed=1)[0]
        asked = prompt(entry["question"], ground_truth=entry["answer"], metadata=entry["metadata"])
        assert judge(asked, f"I say <answer>{entry['answer']}</answer>") == 1.0  # type: ignore[arg-type]
        assert judge(asked, "<answer>no idea</answer>") < 0.5  # type: ignore[arg-type]
        whole = gym(GymReward(name="g", entry="task"))(prompt(task=dict(entry)), entry["answer"])  # type: ignore[arg-type]
        assert whole == 1.0
    assert "no task" in judge(prompt(), "x").error  # type: ignore[arg-type, attr-defined]
    assert "no such task" in judge(prompt(metadata={"source_dataset": "nothing"}), "x").error  # type: ignore[arg-type, attr-defined]


def test_a_pattern_may_be_the_rows_own(prompt: Prompts) -> None:
    judge = regex(RegexReward(name="r"))
    assert [judge(prompt(pattern=r"^\d+$"), t) for t in ("12", "x")] == [1.0, 0.0]  # type: ignore[arg-type]
    assert "no pattern" in judge(prompt(), "x").error  # type: ignore[arg-type, attr-defined]
    assert "not a regular expression" in judge(prompt(pattern="("), "x").error  # type: ignore[arg-type, attr-defined]
