"""A stage's metrics as curves: the ones that tell the story first, all others after them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from keel.evaluate import report_plots as plots
from keel.evaluate.report_data import Row, StageData
from keel.evaluate.report_feedback import feedback_view
from keel.evaluate.report_plots import duration, number, percent
from keel.evaluate.report_series import MOST_APART, Series, series_of, spread
from keel.evaluate.run_diagnosis import diagnose
from keel.evaluate.turns import turn_text

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
    Chart("KL to the reference", ("kl",), "nats per token: how far the policy has moved"),
    Chart("KL of whole answers", ("objective/kl",), "nats per answer"),
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
    curves = _curves(stage)
    marks = _marks(stage)
    title, short = TITLES.get(stage.name) or _own_title(stage)
    used: set[str] = set()
    charts = []
    for chart in MAIN:
        found = [name for pattern in chart.metrics for name in curves if fnmatchcase(name, pattern)][:_MOST_SERIES]
        names = [name for i, name in enumerate(found) if not any(_same(curves[name], curves[earlier]) for earlier in found[:i])]
        if names:
            used |= set(found)
            charts.append(_card(chart.title, chart.note, [curves[name] for name in names], marks))
            last = " · ".join(f"{name} {_end(curves[name], -1)}" for name in names)
            note(f"{title}: {chart.title.lower()} (last)", last, stage.file("metrics.jsonl"), ", ".join(names))
    rest = sorted(
        (name for name in curves if name not in used and not _constant(curves[name])), key=lambda name: (name != "grad_norm", name)
    )
    others = [_card(name, "", [curves[name]], marks) for name in rest]
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
        "symptoms": diagnose(stage.metrics) if stage.manifest.get("verb") == "rl" or stage.name == "rl" else [],
        "told": [{"step": row.get("step"), "text": _told(row)} for row in stage.told],
        "samples": _samples(stage.samples),
        "feedback": feedback_view(stage, note),
    }


def _own_title(stage: StageData) -> tuple[str, str]:
    """Of a stage under a name of the recipe's own: what it is, by its verb, and the name."""
    verb = str(stage.manifest.get("verb", ""))
    known = TITLES.get("evaluate" if verb == "eval" else verb)
    return (f"{known[0]}: {stage.name}", stage.name) if known else (stage.name, stage.name)


def _curves(stage: StageData) -> dict[str, Series]:
    """Numbers by metric name, with those that an emergency took back. ``step`` is the axis."""
    curves: dict[str, Series] = {}
    for name in stage.metrics.names:
        series = series_of(name, *stage.metrics.points(name), dots=name.startswith("eval/"))
        lost = [(x, y) for x, y in zip(*(z.tolist() for z in stage.abandoned.points(name)), strict=True) if math.isfinite(y)]
        worst = sorted(lost, key=lambda point: -abs(point[1]))[:MOST_APART]
        curves[name] = replace(series, lost=tuple(sorted(worst)))
    return curves


def _marks(stage: StageData) -> list[tuple[float, str]]:
    """Emergencies, as lines across the pictures."""
    found = [row for row in stage.told if row.get("kind") == "emergency" and isinstance(row.get("step"), int) and "undone" not in row]
    kept = spread([float(i) for i in range(len(found))], MOST_APART)
    return [(float(row["step"]), f"step {row['step']}: {row.get('message', '')}") for i in kept for row in [found[int(i)]]]


def _same(a: Series, b: Series) -> bool:
    """Do two metrics say the same? One would hide the other."""
    return replace(a, label="") == replace(b, label="")


def _constant(series: Series) -> bool:
    return not series.holes and not series.lost and (len(series.x) < 2 or min(series.y) == max(series.y))


def _end(series: Series, at: int) -> str:
    return number(series.y[at]) if series.y else "not finite"


def _card(title: str, note: str, series: Sequence[Series], marks: Sequence[tuple[float, str]]) -> dict[str, Any]:
    legend = [{"name": s.label, "colour": i % 6 + 1, "first": _end(s, 0), "last": _end(s, -1)} for i, s in enumerate(series)]
    return {"title": title, "note": note, "svg": plots.line_chart(title, series, marks=marks), "legend": legend}


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
        shown["turns"] = [_turn(turn) for turn in row.get("turns") or ()]
        by_prompt.setdefault(str(row.get("prompt", "")), []).append(shown)
    return [{"prompt": prompt, "answers": answers} for prompt, answers in by_prompt.items()]


def _turn(turn: Row) -> Row:
    """A turn of a conversation: who, what was said, which tools were called, what the world gave."""
    reward = turn.get("reward")
    given = number(reward) if isinstance(reward, int | float) else ""
    return {"role": turn.get("role", ""), "name": turn.get("name", ""), "text": turn_text(turn), "reward": given}
