"""Any number of models by any scorers: the board, its words on the terminal, its page in a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from keel.evaluate.board import Entry, Shares, board
from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.page_kit import LANGUAGES, say
from keel.evaluate.report import collect, write_report
from keel.evaluate.result_lines import result_lines

NAMES = ("plain", "<i>long</i>", "worse")


def rows(lift: float, extra: int, text: str = "") -> list[PromptAnswers]:
    """40 prompts; a model's scores are the baseline's and a lift that three in four prompts show."""
    found = []
    for i in range(40):
        base = (i * 7 % 11) / 10
        gain = lift if i % 4 else -lift
        before = Answer(f"words {i} of the baseline", gold=base, rules={"form": float(i % 2)}, tokens=20 + i % 3)
        after = Answer(text or f"words {i} of a model", gold=base + gain, rules={"form": float(i % 2)}, tokens=20 + extra + i % 5)
        found.append(PromptAnswers(f"p{i}", f"Question {i} <script>?", (before,), (after,), ("en", "zh")[i % 3 == 0], ("a", "b")[i % 2]))
    return found


def entries() -> list[Entry]:
    return [
        Entry(NAMES[0], rows(0.5, 0), {"people": Shares({f"p{i}": float(i < 15) for i in range(20)}, 0.1)}, at=10),
        Entry(NAMES[1], rows(0.5, 30, "always the same"), {}, {"kl": {"mean": 2.0, "per_token": 0.1, "n": 9}}, at=20),
        Entry(NAMES[2], rows(-0.5, 0)),
    ]


def test_rates_ties_and_holm_of_three_models():
    found = board(entries(), "base", headline="gold", draws=50)
    assert found["headline"] == "gold"
    rates = {name: m["win_rates"]["gold"] for name, m in found["models"].items()}
    assert [rates[n]["mean"] for n in NAMES] == [0.75, 0.75, 0.25]
    assert rates["plain"]["n"] == 40
    assert found["models"]["plain"]["win_rates"]["form"]["mean"] == 0.5
    assert found["models"]["plain"]["win_rates"]["form"]["ties"] == 1.0  # the same score on every prompt
    assert rates["plain"]["p_holm"] == pytest.approx(min(1.0, 3 * rates["plain"]["p"]))
    assert found["models"][NAMES[1]]["constant"] == 1.0
    assert found["models"]["plain"]["win_rates"]["people"]["mean"] == 0.75
    assert board(entries(), "base", draws=50)["headline"] == "people"  # people speak first
    with pytest.raises(ValueError, match="no scorer 'gould'"):
        board(entries(), "base", headline="gould")


def test_splits_and_ratings():
    found = board(entries(), "base", headline="gold", fields={"group": {f"p{i}": str(i < 10) for i in range(40)}}, draws=50)
    assert set(found["splits"]) == {"category", "language", "length", "group"}
    assert set(found["splits"]["length"]) >= {"longer", "alike"}
    assert found["splits"]["group"]["True"]["plain"]["n"] == 10
    elo = found["ratings"]["elo"]
    assert set(elo) == {"base", *NAMES}
    assert elo["plain"]["mean"] > elo["base"]["mean"] > elo["worse"]["mean"]
    one = board(entries()[:1], "base", draws=50)
    assert "ratings" not in one
    assert board([replace(entries()[0], rows=(), given={})], "base")["headline"] == ""


def test_what_the_terminal_says():
    said = list(result_lines({"board": board(entries(), "base", headline="gold", draws=50)}))
    assert said[0].startswith("Better: plain against base by gold utility: win rate 75.0% [")
    assert any("one and the same text" in line for line in said)
    assert any(line.startswith("Not better: worse") for line in said)
    assert any("KL 2 nats" in line for line in said)
    assert list(result_lines({"board": board([replace(entries()[0], rows=(), given={})], "base")})) == [say("en")("eval.no_scorer")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of keel eval with three models."""
    (tmp_path / "samples").mkdir()
    found = board(entries(), "base", headline="gold", fields={"user_group": {f"p{i}": str(i % 2) for i in range(40)}}, draws=50)
    found["shots"] = {n: {"gold": [{"shots": k, "mean": k / 4, "low": k / 4 - 0.1, "high": k / 4 + 0.1} for k in (0, 1, 2)]} for n in NAMES}
    (tmp_path / "summary.json").write_text(json.dumps({"board": found}))
    (tmp_path / "manifest.json").write_text(json.dumps({"verb": "eval", "config": {"model": "tiny", "evaluate": {"samples": 1}}}))
    lines: list[dict[str, Any]] = [{"model": e.name, **row.to_row()} for e in entries() for row in e.rows]
    (tmp_path / "samples" / "models.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "samples" / "evaluation.jsonl").write_text("".join(json.dumps(r.to_row()) + "\n" for r in entries()[0].rows))
    return tmp_path


def test_the_page_escapes_and_speaks_two_languages(run: Path):
    page = write_report(run / "report.html", collect(run))
    texts = {"en": page.read_text(encoding="utf-8"), "zh": (run / "report.zh.html").read_text(encoding="utf-8")}
    for language in LANGUAGES:
        t = say(language)
        for key in ("page.title", "page.models", "page.ratings", "page.samples", "split.length", "answers.better", "page.convergence"):
            assert str(escape(t(key))) in texts[language]
        assert "<script>?" not in texts[language]
        assert "<i>long</i>" not in texts[language]
        assert texts[language].index("75.0%") < texts[language].index(str(escape(t("page.price"))))  # the win rate first
    assert 'href="report.zh.html"' in texts["en"]
    assert "win_rates" not in texts["en"]  # no raw names of keys


def test_languages_have_the_same_texts():
    folder = Path(__file__).resolve().parents[2] / "keel" / "evaluate" / "lang"
    texts = [json.loads((folder / f"{language}.json").read_text(encoding="utf-8")) for language in LANGUAGES]
    assert list(texts[0]) == list(texts[1])
    for key, value in texts[0].items():
        assert sorted(_places(value)) == sorted(_places(texts[1][key])), key


def _places(text: str) -> set[str]:
    return {part.split("}")[0] for part in text.split("{")[1:]}


@pytest.mark.parametrize("width", [1200, 360])
def test_the_page_can_be_read(run: Path, browser: Any, width: int):
    """Nothing runs out of the page, no text is smaller than 9 pixels, the middle of all rows of a picture is one line."""
    write_report(run / "report.html", collect(run))
    for name in ("report.html", "report.zh.html"):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto((run / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        smallest = page.evaluate(
            """() => Math.min(...[...document.querySelectorAll("main *, header *")].filter(e => e.getClientRects().length &&
            [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())).map(e => parseFloat(getComputedStyle(e).fontSize) *
            (e.ownerSVGElement ? e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width : 1)))"""
        )
        assert smallest >= 9
        middles = page.evaluate(
            """() => [...document.querySelectorAll(".forest")].filter(f => f.getClientRects().length).map(f =>
            new Set([...f.querySelectorAll(".forest-zero")].map(z => Math.round(z.getBoundingClientRect().left))).size)"""
        )
        assert set(middles) == {1}
        page.close()


def test_what_is_not_counted_is_told():
    some = [replace(row, after=(replace(row.after[0], gold=None),)) if i < 3 else row for i, row in enumerate(rows(0.5, 0))]
    found = board([Entry("plain", some, {})], "base", headline="gold", draws=50)
    assert (found["models"]["plain"]["win_rates"]["gold"]["unscored"], found["models"]["plain"]["win_rates"]["gold"]["n"]) == (3, 37)
    said = list(result_lines({"board": found | {"other_languages": {"zh": 5}}}))
    assert "  Not counted, prompts in languages that evaluate.languages leaves out: zh 5" in said
    assert "  Not counted, prompts without a score on both sides: 3" in said
    assert not any("Not counted" in line for line in result_lines({"board": board([Entry("plain", rows(0.5, 0), {})], "base", draws=50)}))
