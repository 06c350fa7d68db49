"""Data sets of which it is known what to do with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from advice_rows import answer, pair, question, votes

from keel.advise.rank import RULES
from keel.advise.ways import BY_NAME, WAYS
from keel.core.config import load
from keel.pipeline import PipelineRecipe
from keel.verbs.run import RECIPES

Advise = Callable[..., dict[str, Any]]


def place(advice: dict[str, Any], name: str) -> int:
    return [w["name"] for w in advice["ranking"]].index(name)


def reason(advice: dict[str, Any], name: str, words: str) -> dict[str, Any]:
    return next(r for r in advice["ranking"][place(advice, name)]["reasons"] if words in r["why"])


def test_thumbs_without_pairs(advise: Advise) -> None:
    found = advise([{"prompt": question(i), "completion": answer(i, 6), "label": i % 2 == 0} for i in range(40)])
    assert found["best"] == "kto"
    assert "arXiv:2402.01306" in found["ranking"][0]["reasons"][0]["source"]
    assert "dpo" in found["not_possible"]
    assert found["data"]["unpaired"]["wanted"] == 0.5
    assert found["start"].startswith("keel prefer ")


def test_unanimous_votes(advise: Advise) -> None:
    found = advise([row for i in range(30) for row in votes(i, ["first"] * 3 if i % 2 else ["second"] * 3)])
    assert found["best"] == "ipo"
    assert reason(found, "ipo", "100% of the preferences are certain")["points"] == 2.0
    assert reason(found, "dpo", "certain")["points"] < 0
    assert found["data"]["agreement"]["raw"] == 1.0


def test_strong_stated_preferences(advise: Advise) -> None:
    found = advise([{**pair(i), "strength": 0.9 + 0.1 * (i % 2)} for i in range(30)])
    assert place(found, "ipo") == 0 < place(found, "dpo")
    weak = advise([{**pair(i), "strength": 1.0 if i == 0 else 0.1} for i in range(30)])
    assert place(weak, "dpo") < place(weak, "ipo")


def test_noisy_votes(advise: Advise) -> None:
    rows = [row for i in range(40) for row in votes(i, ["first", "first", "second" if i % 2 else "first"])]
    found = advise(rows)
    assert found["best"] == "robust_dpo"
    assert 0.08 < found["data"]["noise"] < 0.3
    recipe = found["ranking"][0]["recipe"]
    assert recipe["objective"]["label_smoothing"] == pytest.approx(found["data"]["noise"], abs=0.006)
    assert recipe["data"]["convert"] == {"to": "pairs"}  # whose labels are the shares of votes
    assert reason(found, "ppo", "soft labels")["points"] > 0
    assert any(text.startswith("noise:") for text in found["warnings"])


def test_many_noisy_votes_carry_a_reward_model() -> None:
    few = [rule for rule in RULES if "few for a reward model" in rule.why]
    many = [rule for rule in RULES if "carry a reward model" in rule.why]
    assert few[0].points["ppo"] < 0 < many[0].points["ppo"]


@pytest.mark.parametrize(
    ("truth", "verifier"), [("12", "numeric"), ("work\n#### 12", "gsm8k"), ("B", "choice"), ("\\frac{1}{2}", "math"), ("Paris", "exact")]
)
def test_answers_that_a_program_checks(truth: str, verifier: str, advise: Advise) -> None:
    found = advise([{"prompt": question(i), "ground_truth": truth} for i in range(20)])
    assert found["best"] == "grpo_verifier"
    assert found["ranking"][0]["recipe"]["rewards"][0]["type"] == verifier
    assert found["start"].startswith("keel rl ")


def test_worked_solutions_can_be_checked_too(advise: Advise) -> None:
    found = advise([{"question": question(i), "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(20)])
    assert [w["name"] for w in found["ranking"][:3]] == ["grpo_verifier", "rloo_verifier", "sft"]


def test_demonstrations_alone(advise: Advise) -> None:
    found = advise([{"prompt": question(i), "completion": answer(i, 6)} for i in range(20)])
    assert [w["name"] for w in found["ranking"]] == ["sft"]
    assert found["start"].startswith("keel sft ")


@pytest.mark.parametrize(("chosen", "rejected", "which"), [(12, 3, "longer"), (3, 12, "shorter")])
def test_length_alone_wins(chosen: int, rejected: int, which: str, advise: Advise) -> None:
    found = advise([pair(i, chosen, rejected) for i in range(40)])
    assert found["ranking"][0]["name"] in ("simpo", "dpo_length_normalised")
    assert place(found, "dpo_length_normalised") <= 1
    assert any("length bias" in text and which in text for text in found["warnings"])


def test_no_warning_where_length_says_nothing(advise: Advise) -> None:
    found = advise([pair(i, 4 + 3 * (i % 2), 4 + 3 * ((i + 1) % 2)) for i in range(60)])
    assert found["ranking"][0]["name"] not in ("simpo", "dpo_length_normalised")
    assert not any("length" in text for text in found["warnings"])
    length = found["data"]["preferences"]["length"]["longer_wins"]
    assert length["low"] < 0.5 < length["high"]
    assert length["mean"] == 0.5


def test_prompts_alone_allow_nothing(advise: Advise, capsys: pytest.CaptureFixture[str]) -> None:
    found = advise([{"prompt": question(i)} for i in range(10)])
    assert found["ranking"] == []
    assert found["best"] is None
    assert "ground_truth" in found["needed"]
    assert "nothing can be trained yet" in capsys.readouterr().out


def test_steps(advise: Advise) -> None:
    found = advise([{"prompt": question(i), "completions": ["One.", "Two."], "labels": [True, i % 2 == 0]} for i in range(10)])
    assert found["best"] == "process_reward"


def test_ratings_of_single_answers_make_a_reward_model(advise: Advise) -> None:
    found = advise([{"prompt": question(i), "response": answer(i, 6), "helpfulness": 1 + i % 5} for i in range(40)])
    assert found["best"] == "grpo"
    assert reason(found, "grpo", "fitted to the 40 ratings")["points"] == 3.5
    assert {"best_of_n", "ppo", "rloo"} <= {w["name"] for w in found["ranking"]}
    assert "dpo" in found["not_possible"]
    assert any("rate two answers" in w for w in found["warnings"])


def test_so_few_pairs_that_nothing_could_be_seen_are_named(advise: Advise) -> None:
    few, more = advise([pair(i) for i in range(30)]), advise([pair(i) for i in range(220)])
    assert any("of 30 pairs a tenth is 3" in w and "50%" in w for w in few["warnings"])
    assert not any(w.startswith("few:") for w in more["warnings"])


KINDS = {
    "pairs": [pair(i) for i in range(12)],
    "votes": [row for i in range(12) for row in votes(i, ["first", "second", "first"])],
    "rankings": [
        {"prompt": question(i), "answers": [answer(i, 4), answer(i + 1, 5), answer(i + 2, 6)], "ranks": [1, 2, 3]} for i in range(8)
    ],
    "ratings": [{"prompt": question(i // 2), "answer": answer(i, 5), "rating": 1 + i % 2} for i in range(12)],
    "single ratings": [{"prompt": question(i), "response": answer(i, 5), "helpfulness": 1 + i % 5} for i in range(12)],
    "unpaired": [{"prompt": question(i), "completion": answer(i, 4), "label": i % 2 == 0} for i in range(12)],
    "checked": [{"prompt": question(i), "ground_truth": str(i)} for i in range(8)],
    "demonstrations": [{"prompt": question(i), "completion": answer(i, 4)} for i in range(8)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_recipe_that_is_written_can_be_read(kind: str, advise: Advise, tmp_path: Path) -> None:
    found = advise(KINDS[kind])
    assert found["ranking"]
    for way in found["ranking"]:
        _, verb, path = way["command"].split()
        load(PipelineRecipe if verb == "run" else RECIPES[verb], tmp_path / path, [])
        assert BY_NAME[way["name"]].title == way["title"]


def test_every_rule_speaks_of_ways_that_are_there() -> None:
    names = {way.name for way in WAYS}
    assert names == {name for rule in RULES for name in rule.points}, "a way that no rule speaks for would never be advised"
    for rule in RULES:
        assert "arXiv:" in rule.source or rule.source.startswith("Keel")
