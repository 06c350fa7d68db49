"""The page of `keel eval`, for someone who decides: the win rate first, with its interval; then where it comes from and what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.json_lines import lines_of
from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.page_kit import Say, knows, render, say, write_pages
from keel.evaluate.part_tables import tables
from keel.evaluate.report_data import ReportData, Row
from keel.evaluate.report_made_up import pictures, pieces
from keel.evaluate.report_plots import number, percent
from keel.evaluate.report_samples import MOST_ANSWER, choose
from keel.evaluate.result_lines import CONSTANT, answer_of, not_counted, price_parts, scorer_name
from keel.evaluate.small_plots import Bar, Curve, curves, rows

_TONES = {"better": "good", "not_better": "bad", "cannot_tell": "open"}
_PICKED = 2
_MOST_ROWS = 14  # parts of one split that are drawn


def is_evaluation(data: ReportData) -> bool:
    """Is this the run of `keel eval`, with all that its page tells of?"""
    return data.manifest.get("verb") == "eval" and bool(data.summary.get("board"))


def write_evaluation(path: Path, data: ReportData) -> Path:
    """The page at ``path`` in English, and beside it in Chinese."""
    answers = _answers(path.parent, data)
    return write_pages(path, lambda language, other: render("evaluation.html.j2", language, _view(data, answers, language, other)))


def _answers(folder: Path, data: ReportData) -> dict[str, dict[str, PromptAnswers]]:
    """Rows by model and prompt; of a comparison of two models those of ``samples/evaluation.jsonl``."""
    first = next(iter(data.summary["board"]["models"]))
    found: dict[str, dict[str, PromptAnswers]] = {first: {row.prompt_id: row for row in data.answers}}
    file = folder / "samples" / "models.jsonl"
    if file.is_file():
        for line in lines_of(file.read_text(encoding="utf-8")):
            row = json.loads(line)
            found.setdefault(row["model"], {})[row["prompt_id"]] = PromptAnswers.from_row(row)
    return found


def _view(data: ReportData, answers: Mapping[str, Mapping[str, PromptAnswers]], language: str, other: str) -> dict[str, Any]:
    t, found = say(language), data.summary["board"]
    config = data.manifest.get("config") or {}
    return {
        "name": data.name,
        "first": next(iter(found["models"])),
        "other": other,
        "hero": _hero(found, t),
        "scorers": _by_scorer(found, t),
        "models": _models(found, t),
        "price": _price(found, t),
        "made_up": _made_up(data.summary.get("hallucination"), t),
        "parts": tables(data.summary, t),
        "splits": _splits(found, t),
        "ratings": _ratings(found, t),
        "convergence": _convergence(found, t),
        "learning": _learning(found, t),
        "shots": _shots(found, t),
        "wording": _wording(found, t),
        "samples": _samples(found, answers, t),
        "settings": [(k, _plain(v)) for k, v in _flat(config)],
    }


def _span(rate: Mapping[str, Any], level: float, t: Say) -> str:
    return t("page.interval", level=f"{level:.0%}", low=percent(rate["low"]), high=percent(rate["high"]))


def _value(rate: Mapping[str, Any]) -> str:
    return f"{percent(rate['mean'])} ({percent(rate['low'])} – {percent(rate['high'])})"


def _forest(bars: Sequence[Bar], t: Say) -> Any:
    return rows(bars, 0.0, 1.0, [(0.5, f"50% {t('page.even')}"), (0.0, "0%"), (1.0, "100%")])


def _hero(found: Row, t: Say) -> dict[str, Any] | None:
    first = found["headline"]
    if not first:
        return None
    name, model = next(iter(found["models"].items()))
    rate = model["win_rates"].get(first)
    if rate is None:
        return None
    alone = len(found["models"]) == 1
    answer = answer_of(rate, alone, found["level"])
    more = found["convergence"][name]["more_to_decide"]
    controlled = rate.get("length_controlled")
    p = t("page.p_one", p=number(rate["p"])) if alone else t("page.p", p=number(rate["p"]), holm=number(rate["p_holm"]))
    warnings = list(not_counted(found, rate, t))
    if controlled is not None and controlled["length_explains_it"]:
        warnings.append(t("page.length.explains"))
    if model["constant"] >= CONSTANT:
        warnings.append(t("eval.constant", share=percent(model["constant"])))
    return {
        "kicker": f"{t('page.hero', model=name, baseline=found['baseline'])} · {t('page.by', scorer=scorer_name(first, t))}",
        "rate": percent(rate["mean"]),
        "span": _span(rate, found["level"], t),
        "n": t("page.n", n=f"{rate['n']:,}", ties=percent(rate["ties"])),
        "answer": t(f"answers.{answer}"),
        "tone": _TONES[answer],
        "more": t("page.convergence.more", more=f"{more:,}") if answer == "cannot_tell" and more else "",
        "p": p,
        "length": f"{t('page.length')}: {_value(controlled)}" if controlled is not None else "",
        "warnings": warnings,
    }


def _by_scorer(found: Row, t: Say) -> Any:
    """Win rates of the first model by each scorer, the headline first."""
    model = next(iter(found["models"].values()))
    rates = model["win_rates"]
    order = [s for s in (found["headline"], *rates) if s in rates]
    bars = []
    for scorer in dict.fromkeys(order):
        rate = rates[scorer]
        note = t("page.n", n=f"{rate['n']:,}", ties=percent(rate["ties"]))
        bars.append(Bar(scorer_name(scorer, t), rate["mean"], rate["low"], rate["high"], _value(rate), note, scorer == found["headline"]))
    return _forest(bars, t) if bars else None


def _models(found: Row, t: Say) -> Any:
    first = found["headline"]
    rates = {name: m["win_rates"][first] for name, m in found["models"].items() if first in m["win_rates"]}
    if len(rates) < 2:
        return None
    bars = []
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]["mean"]):
        note = t("page.p", p=number(rate["p"]), holm=number(rate["p_holm"]))
        bars.append(Bar(name, rate["mean"], rate["low"], rate["high"], _value(rate), note, name == next(iter(found["models"]))))
    return _forest(bars, t)


def _price(found: Row, t: Say) -> list[dict[str, Any]]:
    parts = {name: price_parts(model, t) for name, model in found["models"].items()}
    labels = {label: note for of_model in parts.values() for label, _, note in of_model}
    whole = {name: {label: (value, note) for label, value, note in of_model} for name, of_model in parts.items()}
    return [
        {"name": name, "parts": [(label, *known.get(label, ("–", note))) for label, note in labels.items()]}
        for name, known in whole.items()
    ]


def _made_up(found: Any, t: Say) -> str:
    if not isinstance(found, Mapping) or "any" not in found.get("rates", {}):
        return ""
    rate = found["rates"]["any"]
    return f"{t('page.made_up.share')}: {_value(rate['before'])} → {_value(rate['after'])}"


def _splits(found: Row, t: Say) -> list[dict[str, Any]]:
    out = []
    for way, parts in found.get("splits", {}).items():
        drawn: dict[str, list[Bar]] = {name: [] for name in found["models"]}
        for value, by_model in list(parts.items())[:_MOST_ROWS]:
            label = _split_value(way, value, t)
            for name, rate in by_model.items():
                drawn[name].append(Bar(label, rate["mean"], rate["low"], rate["high"], _value(rate), f"n = {rate['n']}"))
        title = t(f"split.{way}") if knows(f"split.{way}") else way
        forests = [(name, _forest(bars, t)) for name, bars in drawn.items() if bars]
        out.append({"title": title, "first": forests[0], "others": forests[1:], "left_out": max(0, len(parts) - _MOST_ROWS)})
    return out


def _split_value(way: str, value: str, t: Say) -> str:
    if not value:
        return t("split.value.none")
    if way == "length":
        return t(f"split.value.{value}")
    if way == "language" and knows(f"language.{value}"):
        return t(f"language.{value}")
    return value


def _ratings(found: Row, t: Say) -> dict[str, Any] | None:
    told = found.get("ratings")
    if not told:
        return None
    elo = told["elo"]
    unbounded = t("page.unbounded", names=", ".join(told["unbounded"])) if told["unbounded"] else ""
    if len(elo) < 2:
        return {"forest": None, "unbounded": unbounded} if unbounded else None
    ends = [v for i in elo.values() for v in (i["mean"], i["low"], i["high"]) if math.isfinite(v)]
    low, high = math.floor(min(ends) / 100) * 100, math.ceil(max(ends) / 100) * 100
    bars = []
    for name, i in elo.items():
        value = f"{i['mean']:.0f} ({i['low']:.0f} – {i['high']:.0f})"
        bars.append(Bar(name, i["mean"], i["low"], i["high"], value, "", name == next(iter(found["models"]))))
    marks = [(1000.0, "1000"), *[(float(v), f"{v}") for v in (low, high) if v != 1000]]
    return {"forest": rows(bars, min(low, 900), max(high, 1100), marks), "unbounded": unbounded}


def _convergence(found: Row, t: Say) -> dict[str, Any] | None:
    name = next(iter(found["models"]))
    told = found.get("convergence", {}).get(name)
    if not told or len(told["curve"]) < 2:
        return None
    points = [(i["n"], i["mean"], i["low"], i["high"]) for i in told["curve"]]
    more = told["more_to_decide"]
    key = "even" if more is None else "more" if more else "done"
    return {
        "plot": curves(t("page.convergence"), [Curve(name, points)], t("page.prompts"), zero=0.5, logarithmic=True),
        "said": t(f"page.convergence.{key}", **({"more": f"{more:,}"} if more else {})),
        "halve": t("page.convergence.halve", more=f"{told['more_to_halve']:,}"),
    }


def _learning(found: Row, t: Say) -> Any:
    first = found["headline"]
    points = []
    for model in found["models"].values():
        rate = model["win_rates"].get(first)
        if model["at"] is not None and rate is not None:
            points.append((model["at"], rate["mean"], rate["low"], rate["high"]))
    if len(points) < 2:
        return None
    return curves(t("page.learning"), [Curve(scorer_name(first, t), sorted(points))], t("page.learning.x"), zero=0.5)


def _shots(found: Row, t: Say) -> list[dict[str, Any]]:
    scorers = dict.fromkeys(s for by_scorer in found.get("shots", {}).values() for s in by_scorer)
    out = []
    for scorer in scorers:
        lines = [
            Curve(name, [(p["shots"], p["mean"], p["low"], p["high"]) for p in by_scorer[scorer]])
            for name, by_scorer in found["shots"].items()
            if len(by_scorer.get(scorer, ())) > 1
        ]
        if lines:
            title = t("page.shots", scorer=scorer_name(scorer, t))
            legend = [(line.label, i % 6 + 1) for i, line in enumerate(lines)]
            out.append({"title": title, "plot": curves(title, lines, t("page.shots.x"), percents=False), "legend": legend})
    return out


def _wording(found: Row, t: Say) -> dict[str, Any] | None:
    told = found.get("wording")
    if not told:
        return None
    lines = []
    for measure, label in (("bleu", "BLEU"), ("cider", "CIDEr")):
        for kind, shown in (("spearman", "Spearman"), ("kendall", "Kendall")):
            value = told["correlations"].get(measure, {}).get(kind)
            text = (
                t("page.wording.none") if value is None else f"{number(value['mean'])} ({number(value['low'])} – {number(value['high'])})"
            )
            lines.append((f"{label}, {shown}", text))
    title = t("page.wording.correlation", scorer=scorer_name(told["beside"], t), n=told["judged"])
    return {"models": [(n, number(m["bleu"]), number(m["cider"])) for n, m in told["models"].items()], "title": title, "lines": lines}


def _samples(found: Row, answers: Mapping[str, Mapping[str, PromptAnswers]], t: Say) -> list[dict[str, Any]]:
    first = next(iter(found["models"]))
    of_first = answers.get(first, {})
    gains = {i: _gain(row, found["headline"]) for i, row in of_first.items()}
    cards = []
    for choice in choose(gains, fixed=1, extremes=_PICKED, random=1):
        row = of_first[choice.prompt_id]
        sides = [
            (found["baseline"], row.before),
            *((name, a[choice.prompt_id].after) for name, a in answers.items() if choice.prompt_id in a),
        ]
        cards.append(
            {
                "why": t(f"why.{choice.why}"),
                "prompt": row.prompt,
                "language": row.language,
                "category": row.category,
                "pictures": pictures(row.images),
                "sides": [{"name": name, "first": name == first, "answer": _answer(side[0], t)} for name, side in sides if side],
            }
        )
    return cards


def _gain(row: PromptAnswers, scorer: str) -> float | None:
    sides = [[v for a in side if (v := a.score(scorer)) is not None] for side in (row.before, row.after)]
    if not all(sides):
        return None
    return math.fsum(sides[1]) / len(sides[1]) - math.fsum(sides[0]) / len(sides[0])


def _answer(answer: Answer, t: Say) -> dict[str, Any]:
    names = dict.fromkeys(("gold", "reward_model", *sorted(answer.rules)))
    scores = [(scorer_name(n, t), number(v, 2)) for n in names if (v := answer.score(n)) is not None]
    whole = answer.shown
    text = whole if len(whole) <= MOST_ANSWER else whole[:MOST_ANSWER] + " …"
    length = t("page.tokens" if answer.tokens is not None else "page.words", n=answer.length)
    return {"pieces": pieces(answer, text), "scores": scores, "length": length}


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        return [leaf for key, value in tree.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, tree)]


def _plain(value: Any) -> str:
    return "–" if value is None else json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
