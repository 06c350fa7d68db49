"""A stage's metrics as curves: the ones that tell the story first, all others after them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from keel.evaluate import report_plots as plots
from keel.evaluate.report_data import Row, StageData
from keel.evaluate.report_feedback import feedback_view
from keel.evaluate.report_plots import Series, duration, number, percent

Note = Callable[[str, str, str, str], None]  # label, text, file, field
_MOST_SERIES = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture: metrics (patterns) over steps, and what to look for."""

    title: str
    metrics: tuple[str, ...]
    note: str = ""


TITLES = {  # stage -> title, short form for the page's menu
    "sft": ("Supervised fine-tuning", "SFT"),
    "preferences": ("Preferences", "Preferences"),
    "reward": ("Reward model", "Reward model"),
    "rl": ("Reinforcement learning", "RL"),
    "prefer": ("Preference optimisation", "Preference optimisation"),
    "evaluate": ("Evaluation", "Evaluation"),
    "collect": ("Collected answers", "Collected"),
    "annotate": ("People", "People"),
    "mine": ("Failures mined", "Failures"),
    "improve": ("Self-improvement", "Self-improvement"),
}
MAIN = (
    Chart("Held-out measure by round", ("improve/score", "improve/score_low", "improve/score_high"), "not the judge that is learnt from"),
    Chart(
        "The judge's share over the start", ("improve/judge", "improve/judge_low", "improve/judge_high"), "the judge that is learnt from"
    ),
    Chart("Length by round", ("improve/tokens", "improve/tokens_low", "improve/tokens_high"), "tokens an answer, held out"),
    Chart("Success and harder prompts", ("improve/success", "improve/harder"), "what the next round's prompts hang on"),
    Chart("Reward", ("reward", "objective/rlhf_reward", "objective/scores"), "mean over the answers of a step"),
    Chart("Reward by source", ("rewards/*/mean",), "unweighted"),
    Chart("KL to the reference", ("kl", "objective/kl"), "how far the policy has moved"),
    Chart("Length of answers", ("completions/mean_length",), "tokens"),
    Chart("Entropy", ("entropy", "objective/entropy", "policy/entropy_avg"), "a fall to zero means that answers no longer vary"),
    Chart("Loss", ("loss", "eval/loss", "loss/policy_avg", "loss/value_avg"), ""),
    Chart(
        "Accuracy", ("accuracy", "rewards/accuracies", "eval/accuracy", "eval/rewards/accuracies"), "share of pairs ordered as people did"
    ),
    Chart(
        "Margin", ("margin", "rewards/margins", "rewards/chosen", "rewards/rejected"), "score of the chosen answer over the rejected one"
    ),
    Chart("Token accuracy", ("mean_token_accuracy", "eval/mean_token_accuracy"), "next tokens guessed right"),
    Chart("Spread of rewards", ("reward_std", "frac_reward_zero_std"), "groups without spread teach nothing"),
)


def stage_view(stage: StageData, note: Note) -> dict[str, Any]:
    """What the template shows of a stage: main curves, the other metrics, its summary's numbers, warnings and samples."""
    curves = _curves(stage.metrics)
    title, short = TITLES.get(stage.name) or _own_title(stage)
    used: set[str] = set()
    charts = []
    for chart in MAIN:
        names = [name for pattern in chart.metrics for name in curves if fnmatchcase(name, pattern)][:_MOST_SERIES]
        if names:
            used |= set(names)
            charts.append(_card(chart.title, chart.note, [curves[name] for name in names]))
            last = " · ".join(f"{name} {number(curves[name].y[-1])}" for name in names)
            note(f"{title}: {chart.title.lower()} (last)", last, stage.file("metrics.jsonl"), ", ".join(names))
    rest = sorted(
        (name for name in curves if name not in used and not _constant(curves[name])), key=lambda name: (name != "grad_norm", name)
    )
    others = [_card(name, "", [curves[name]]) for name in rest]
    if len(charts) % 2 and others:  # two in a row: the gradient norm fills the gap
        charts.append(others.pop(0))
    wall = stage.summary.get("wall_s")
    return {
        "name": stage.name,
        "title": title,
        "short": short,
        "folder": stage.folder or ".",
        "wall": duration(wall) if isinstance(wall, int | float) and math.isfinite(wall) else None,
        "charts": charts,
        "others": others,
        "facts": _facts(stage.summary),
        "told": [{"step": row.get("step"), "text": _told(row)} for row in stage.told],
        "samples": _samples(stage.samples),
        "feedback": feedback_view(stage, note),
    }


def _own_title(stage: StageData) -> tuple[str, str]:
    """Of a stage under a name of the recipe's own: what it is, by its verb, and the name."""
    verb = str(stage.manifest.get("verb", ""))
    known = TITLES.get("evaluate" if verb == "eval" else verb)
    return (f"{known[0]}: {stage.name}", stage.name) if known else (stage.name, stage.name)


def _curves(rows: Sequence[Row]) -> dict[str, Series]:
    """Finite numbers by metric name. ``step`` is the axis; times of the clock are left to the summary."""
    points: dict[str, list[tuple[float, float]]] = {}
    for i, row in enumerate(rows):
        step = row.get("step", i + 1)
        for name, value in row.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            points.setdefault(name, []).append((float(step), float(value)))
    return {name: Series(name, *map(tuple, zip(*sorted(xy))), dots=name.startswith("eval/")) for name, xy in points.items()}


def _constant(series: Series) -> bool:
    return len(series.x) < 2 or min(series.y) == max(series.y)


def _card(title: str, note: str, series: Sequence[Series]) -> dict[str, Any]:
    legend = [{"name": s.label, "colour": i % 6 + 1, "first": number(s.y[0]), "last": number(s.y[-1])} for i, s in enumerate(series)]
    return {"title": title, "note": note, "svg": plots.line_chart(title, series), "legend": legend}


def _facts(summary: Row) -> list[tuple[str, str]]:
    facts = []
    for name, value in summary.items():
        if name in ("wall_s", "schema"):  # the one stands beside the title, the other is the file's
            continue
        if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
            facts.append((name, f"{percent(value['mean'])} ({percent(value['low'])} – {percent(value['high'])})"))
        elif isinstance(value, dict) and value and all(isinstance(v, int) for v in value.values()):
            facts += [(f"{name}: {key}", f"{v:,}") for key, v in value.items()]
        elif isinstance(value, int | float):
            facts.append((name, str(value).lower() if isinstance(value, bool) else number(value, 4)))
    return facts


def _told(row: Row) -> str:
    data = row.get("data")
    reason = data.get("reason", "") if isinstance(data, dict) else ""
    undone = f" (these steps were given up: back to step {row['undone']})" if "undone" in row else ""
    return f"{row['kind']}: {row.get('message') or reason}{undone}"


def _samples(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Answers during training, by prompt, in the order of steps."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        reward = row.get("reward")
        text = number(reward) if isinstance(reward, int | float) else ""
        shown = {"step": row.get("step"), "text": row.get("text", ""), "raw": row.get("raw", ""), "reward": text, "why": row.get("why", "")}
        by_prompt.setdefault(str(row.get("prompt", "")), []).append(shown)
    return [{"prompt": prompt, "answers": answers} for prompt, answers in by_prompt.items()]
