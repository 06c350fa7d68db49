"""The page and the card: both languages, every sentence there, text from outside harmless."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import get_args

import pytest
import yaml

import keel.release
from keel.core.config import load
from keel.core.errors import ConfigError
from keel.evaluate.statistics import Interval
from keel.release.card import card
from keel.release.config import AnyGate, CardConfig, GatesConfig
from keel.release.gates.table import GATES
from keel.release.gates.verdict import Verdict, cannot_tell
from keel.release.lineage import Clicks, Lineage, Stage
from keel.release.page import page
from keel.release.say import LANGUAGES, sentences

EVIL = "<script>alert(1)</script>|x"
RECORD = {"to": "merged", "precision": "fp32", "fingerprint": "f" * 64, "source_fingerprint": "e" * 64}
RECORD |= {"kl": 0.0, "logprob_difference": 0.0, "tokens": 48}
LINEAGE = Lineage(
    EVIL, "apache-2.0", (Stage(EVIL, "sft", 0, "2026-11-30", "abc", {EVIL: "123"}, 20),), (Clicks("snap", 120, 4), Clicks("gone"))
)
GATES_SAID = {
    "quantisation": (
        "quantisation",
        Verdict("pass", Interval(0.001, 0.0005, 0.002, 80), at_most=0.02, unit="texts", facts={"way": "int8"}),
    ),
    "mine": ("number", Verdict("cannot_tell", Interval(0.5, 0.4, 0.6, 50), at_least=0.45, more=150, unit="prompts")),
    "person": ("sign_off", cannot_tell("nobody_signed", path=EVIL, own="f" * 64)),
}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same_things() -> None:
    english, chinese = (sentences(language) for language in LANGUAGES)
    assert english.keys() == chinese.keys()
    for key in english:
        assert placeholders(english[key]) == placeholders(chinese[key]), key


def test_every_reason_has_a_sentence() -> None:
    text = "\n".join(p.read_text(encoding="utf-8") for p in (Path(str(keel.release.__file__)).parent / "gates").glob("*.py"))
    keys = set(re.findall(r'cannot_tell\(\s*"(\w+)"', text)) | set(re.findall(r'\("(\w+)",\)', text))
    assert len(keys) > 15
    assert keys <= sentences("en").keys()


def test_every_kind_of_gate_has_a_function_and_a_name() -> None:
    kinds = {gate.model_fields["kind"].default for gate in get_args(get_args(AnyGate)[0])}
    assert kinds == GATES.keys()
    assert {f"kind.{kind}" for kind in kinds} <= sentences("en").keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_verdict_comes_first_and_nothing_is_markup(language: str) -> None:
    html = page(language, EVIL, RECORD, LINEAGE, GATES_SAID, {"machine": "here", "date": "2026-11-30"})
    assert "<script" not in html
    said = sentences(language)["state.cannot_tell"]
    assert html.index(said) < html.index(sentences(language)["gates"] + "</h2>")
    assert "150" in html
    assert "120" in html
    assert sentences(language)["unknown"] in html
    assert "?" not in re.sub(r"<[^>]*>", "", html).replace(sentences(language)["may_go_out"], ""), "every sentence is filled in"


def test_the_card_is_what_the_hub_reads() -> None:
    text = card(CardConfig(licence="apache-2.0", languages=["en"], limits=["small"]), "m", RECORD, LINEAGE, GATES_SAID)
    front, body = text.split("---\n", 2)[1:]
    data = yaml.safe_load(front)
    assert (data["license"], data["language"], data["tags"]) == ("apache-2.0", ["en"], ["keel", "sft"])
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.001
    assert "base_model" not in data, "what is not on the Hub is not named as if it were"
    assert "<script" not in body
    assert "Snapshot `snap`: 120 judgements of 4 annotators." in body
    assert "Snapshot `gone`: judgements: unknown." in body
    assert "cannot tell" in body


def test_what_nobody_said_is_unknown() -> None:
    bare = Lineage("unknown", "unknown", (), (), "no run made this folder")
    body = card(CardConfig(), "m", RECORD, bare, {})
    for part in ("Intended use: unknown", "Training data: unknown", "Known limits: unknown", "no run made this folder", "Not gated"):
        assert part in body


@pytest.mark.parametrize("file", ["tiny.yaml", "full.yaml"])
def test_the_examples_load(file: str, root: Path) -> None:
    config = load(GatesConfig, root / "recipes/gates" / file)
    assert len({gate.title for gate in config.gates}) == len(config.gates) >= 4


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("gates=[]", "at least 1"),
        ("gates=[{kind: refusal, prompts: p}]", "give at_least, at_most or both"),
        ("gates=[{kind: length, prompts: p, at_most: 200, max_tokens: 100}]", "can never be crossed"),
        ("gates=[{kind: speeed, at_least: 1}]", "'kind' must be one of"),
        ("gates=[{kind: speed, at_least: 1, at_mots: 2}]", "unknown key"),
        ("gates=[{kind: speed, at_least: 1}, {kind: speed, at_least: 2}]", "two gates are called speed"),
        ("export={to: gguf, dtype: bf16}", "dtype would have no effect"),
        ("export={quant: q8_0}", "quant would have no effect"),
    ],
)
def test_settings_without_effect_are_refused(override: str, told: str, root: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        load(GatesConfig, root / "recipes/gates/tiny.yaml", [override])
