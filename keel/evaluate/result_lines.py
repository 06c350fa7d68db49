"""What an evaluation says on the terminal, from its summary: the win rate first, with its interval; then what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keel.evaluate.page_kit import Say, knows, say
from keel.evaluate.part_tables import lines
from keel.evaluate.report_plots import number, percent

CONSTANT = 0.5


def answer_of(rate: Mapping[str, Any], alone: bool, level: float) -> str:
    """better, not_better, cannot_tell: by the interval of one model, and by Holm's p where there are several."""
    if not (rate["low"] > 0.5 or rate["high"] < 0.5) or (not alone and rate["p_holm"] > 1 - level):
        return "cannot_tell"
    return "better" if rate["mean"] > 0.5 else "not_better"


def scorer_name(scorer: str, t: Say) -> str:
    """A scorer for people: its own name, or what it is."""
    return t(f"scorer.{scorer}") if knows(f"scorer.{scorer}") else scorer


def result_lines(summary: Mapping[str, Any], language: str = "en") -> Iterator[str]:
    """One line a model by the headline, one by each other scorer, one for the price; then the further parts."""
    found = summary.get("board")
    if not found or not found["headline"]:
        yield say(language)("eval.no_scorer")
        yield from lines(summary, say(language))
        return
    t, level, first = say(language), found["level"], found["headline"]
    alone = len(found["models"]) == 1
    for name, model in found["models"].items():
        rate = model["win_rates"].get(first)
        if rate is None:
            yield t("eval.line.none", model=name, scorer=scorer_name(first, t))
            continue
        answer = t(f"answers.{answer_of(rate, alone, level)}")
        yield t("eval.line.first", answer=answer, model=name, baseline=found["baseline"], scorer=scorer_name(first, t), **_texts(rate))
        if (more := found["convergence"][name]["more_to_decide"]) and answer == t("answers.cannot_tell"):
            yield "  " + t("eval.line.more", more=f"{more:,}")
        if (controlled := rate.get("length_controlled")) is not None:
            told = t("eval.length_explains") if controlled["length_explains_it"] else ""
            yield "  " + t("eval.line.length", **_texts(controlled | {"ties": 0.0})) + told
        if model["constant"] >= CONSTANT:
            yield "  " + t("eval.constant", share=percent(model["constant"]))
        for line in not_counted(found, rate, t):
            yield "  " + line
        for scorer, other in model["win_rates"].items():
            if scorer != first:
                yield "  " + t("eval.line.other", scorer=scorer_name(scorer, t), **_texts(other))
        if price := price_parts(model, t):
            yield "  " + t("eval.price") + ": " + ", ".join(f"{label} {value}" for label, value, _ in price)
    yield from lines(summary, t)


def not_counted(found: Mapping[str, Any], rate: Mapping[str, Any], t: Say) -> Iterator[str]:
    """Which prompts are not in the win rate, and why."""
    if others := found.get("other_languages"):
        yield t("eval.other_languages", counts=", ".join(f"{name} {n:,}" for name, n in sorted(others.items())))
    if rate.get("unscored"):
        yield t("eval.unscored", n=f"{rate['unscored']:,}")


def _texts(rate: Mapping[str, Any]) -> dict[str, str]:
    return {"rate": percent(rate["mean"]), "low": percent(rate["low"]), "high": percent(rate["high"]), "n": f"{rate['n']:,}"} | {
        "ties": percent(rate.get("ties", 0.0))
    }


def price_parts(model: Mapping[str, Any], t: Say) -> list[tuple[str, str, str]]:
    """What was paid: label, value, what it means."""
    parts: list[tuple[str, str, str]] = []
    old, new = model["texts"]["baseline"], model["texts"]["own"]
    if old["length"] and new["length"] is not None:
        change = f" ({100 * (new['length'] / old['length'] - 1):+.0f}%)".replace("-", "−")
        parts.append((t("price.length"), f"{number(old['length'])} → {number(new['length'])}{change}", t("price.length.note")))
    if old["distinct_2"] is not None and new["distinct_2"] is not None:
        parts.append((t("price.distinct"), f"{number(old['distinct_2'])} → {number(new['distinct_2'])}", t("price.distinct.note")))
    price = model["price"]
    if (kl := price.get("kl")) is not None:
        parts.append((t("price.kl"), f"{number(kl['mean'])} nats", t("price.kl.note", n=kl["n"], token=number(kl["per_token"]))))
    if (kept := price.get("retention")) is not None:
        value = f"{number(kept['perplexity_before'])} → {number(kept['perplexity_after'])}"
        parts.append((t("price.perplexity"), value, t("price.perplexity.note", tokens=f"{kept['n_tokens']:,}")))
    return parts
