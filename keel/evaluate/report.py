"""The report of a run: one HTML file that needs nothing else. Every number on the page is looked up through a ledger, so that the page
ends with a table of where each came from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from keel.evaluate import report_plots as plots
from keel.evaluate.checklists.view import checklists_view
from keel.evaluate.compare import GOLD, REWARD_MODEL, PromptAnswers, subsets
from keel.evaluate.evaluation_page import is_evaluation, write_evaluation
from keel.evaluate.report_curves import stage_view
from keel.evaluate.report_data import ReportData, Row, collect
from keel.evaluate.report_made_up import made_up_view
from keel.evaluate.report_plots import duration, number, percent
from keel.evaluate.report_result import result_tile, warning_tile
from keel.evaluate.report_samples import answers_view
from keel.runs.durable import write_atomic

__all__ = ["ReportData", "collect", "write_report"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a number on the page was read."""

    label: str
    text: str
    file: str
    field: str


@dataclass(slots=True)
class Ledger:
    """Looks fields up in the run's summary and remembers what was shown, and what was not there."""

    summary: Row
    shown: list[Origin] = field(default_factory=list[Origin])
    missing: list[str] = field(default_factory=list[str])

    def note(self, label: str, text: str, file: str, name: str) -> None:
        """Record a number that is shown."""
        self.shown.append(Origin(label, text, file, name))

    def number(self, label: str, path: str, style: Any = number) -> float | None:
        """A finite number of ``summary.json`` at a dotted path (a dict's ``mean`` counts), noted with its text; None when absent."""
        value = lookup(self.summary, path)
        if isinstance(value, Mapping) and "mean" in value:
            value, path = value["mean"], f"{path}.mean"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        self.note(label, style(value), "summary.json", path)
        return float(value)

    def interval(self, label: str, path: str) -> dict[str, float] | None:
        """An interval ``{mean, low, high, n}`` of ``summary.json``; None when absent or incomplete."""
        value = lookup(self.summary, path)
        keys = ("mean", "low", "high", "n")
        if not isinstance(value, Mapping) or not all(isinstance(value.get(k), int | float) and math.isfinite(value[k]) for k in keys):
            return None
        text = f"{percent(value['mean'])} ({percent(value['low'])} – {percent(value['high'])}), n = {value['n']:g}"
        self.note(label, text, "summary.json", path)
        return {k: float(value[k]) for k in keys}


def lookup(tree: Any, path: str) -> Any:
    """Value at a dotted path in nested dicts, None when a key is not there."""
    for key in path.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def write_report(path: Path, data: ReportData) -> Path:
    """Write the report as one HTML file and return its path. The file is replaced as a whole, never left half-written. An evaluation has a
    page of its own, in two languages."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_evaluation(data):
        return write_evaluation(path, data)
    write_atomic(path, render(data).encode())
    return path


def render(data: ReportData) -> str:
    """The report as HTML. Answers, settings and names are untrusted: everything is escaped by the template."""
    environment = Environment(
        loader=PackageLoader("keel.evaluate", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**_view(data))


def _view(data: ReportData) -> dict[str, Any]:
    ledger = Ledger(data.summary)
    headline = _headline(ledger)
    view = {
        "name": data.name,
        "about": _about(data),
        "headline": headline,
        "rates": _rates(ledger, headline),
        "tiles": _tiles(data, ledger),
        "made_up": made_up_view(data.summary.get("hallucination"), ledger.note),
        "timeline": _timeline(data, ledger),
        "stages": [stage_view(stage, ledger.note) for stage in data.stages],
        "distributions": _distributions(data, ledger),
        "distributions_note": f"of the {len(_scored(data))} prompts whose language is scored" if data.summary.get("languages") else "",
        "judges": _judges(data, ledger),
        "answers": answers_view(data.answers),
        "answers_file": data.answers_file,
        "checklists": checklists_view(data),
        "settings": _settings(data),
        "environment": [(key, _plain(value)) for key, value in flatten({k: v for k, v in data.manifest.items() if k != "config"})],
    }
    if not data.answers:
        ledger.missing.append(f"Side-by-side answers: the run has no {data.answers_file}.")
    if not view["settings"]:
        ledger.missing.append("Settings: manifest.json has no resolved config.")
    return view | {"origins": ledger.shown, "missing": ledger.missing}


def _about(data: ReportData) -> list[tuple[str, str]]:
    """Chips under the title: what identifies the run."""
    config = data.manifest.get("config") or {}
    git = data.manifest.get("git")
    commit = lookup(git, "commit") if isinstance(git, Mapping) else git
    values = {
        "model": config.get("model"),
        "seed": config.get("seed", data.manifest.get("seed")),
        "code": str(commit)[:10] if commit else None,
    }
    chips = [(key, _plain(value)) for key, value in values.items() if value is not None and not isinstance(value, Mapping)]
    names = data.summary.get("stages")
    stages = [str(name) for name in names] if isinstance(names, list | tuple) else [stage.name for stage in data.stages]
    return [*chips, ("stages", " → ".join(stages))]


def _headline(ledger: Ledger) -> dict[str, Any] | None:
    rate = ledger.interval("Win rate by gold utility", "win_rate")
    if rate is None:
        ledger.missing.append("Headline: summary.json has no win_rate, so no two models were compared in this run.")
        return None
    if rate["low"] > 0.5:
        verdict, tone = "better than before training", "good"
    elif rate["high"] < 0.5:
        verdict, tone = "worse than before training", "bad"
    else:
        verdict, tone = "no clear difference: the interval holds 50%", "open"
    level = lookup(ledger.summary, "level")
    interval = f"{level:.0%} interval" if isinstance(level, float) else "interval"
    return rate | {
        "interval": interval,
        "text": percent(rate["mean"]),
        "span": f"{percent(rate['low'])} – {percent(rate['high'])}",
        "verdict": verdict,
        "tone": tone,
    }


def _rates(ledger: Ledger, headline: Mapping[str, Any] | None) -> Markup | None:
    rows = [] if headline is None else [("gold utility", headline)]
    content = ledger.interval("Win rate by gold utility without form", "win_rate_gold_content")
    if content is not None:
        rows.append(("gold, form left out", content))
    model = ledger.interval("Win rate by reward model", "win_rate_reward_model")
    if model is not None:
        rows.append(("reward model", model))
    judge = ledger.interval("Win rate by judge", "win_rate_judge")
    if judge is not None:
        carried = "" if lookup(ledger.summary, "win_rate_judge.error_carried") else ", its own error left out"
        rows.append((f"judge{carried}", judge))
    rules = lookup(ledger.summary, "win_rate_rules")
    for rule in rules if isinstance(rules, Mapping) else ():
        rate = ledger.interval(f"Win rate by rule {rule}", f"win_rate_rules.{rule}")
        if rate is not None:
            rows.append((f"rule: {rule}", rate))
    if not rows:
        return None
    lines = [(name, rate["mean"], rate["low"], rate["high"]) for name, rate in rows]
    return plots.intervals("Win rates with their intervals", lines, headline=headline is not None)


_CHANGES = (
    ("Reward", "reward_before", "reward_after", "mean score of the reward model"),
    ("Length", "length_before", "length_after", "mean tokens of an answer"),
    ("Distinct-1", "distinct_1_before", "distinct_1_after", "different words / all words"),
    ("Distinct-2", "distinct_2_before", "distinct_2_after", "different word pairs / all pairs"),
    ("Perplexity", "retention.perplexity_before", "retention.perplexity_after", "on unrelated text: lower is better"),
)
_VALUES = (
    ("KL", "kl", "to the model before RL, nats", number),
    ("Retention", "retention.ratio", "perplexity after / before; 1 is nothing lost", number),
    ("Peak memory", "peak_mb", "highest over the run", lambda v: f"{v:,.0f} MB"),
)


def _tiles(data: ReportData, ledger: Ledger) -> list[dict[str, Any]]:
    """What came out of the run first, what it cost last."""
    first = (result_tile(data, ledger.note), warning_tile(data.summary))
    tiles: list[dict[str, Any]] = [tile for tile in first if tile is not None]
    for label, before, after, note in _CHANGES:
        old, new = ledger.number(f"{label} before", before), ledger.number(f"{label} after", after)
        if old is None or new is None:
            ledger.missing.append(f"{label} before and after: summary.json lacks {before} or {after}.")
            continue
        delta = new - old
        sign = "+" if delta > 0 else ""
        tiles.append({"label": label, "before": number(old), "after": number(new), "delta": sign + number(delta), "note": note})
    for label, path, note, style in _VALUES:
        value = ledger.number(label, path, style)
        if value is None:
            ledger.missing.append(f"{label}: summary.json has no {path}.")
        else:
            tiles.append({"label": label, "before": None, "after": style(value), "delta": None, "note": note})
    return tiles


def _timeline(data: ReportData, ledger: Ledger) -> dict[str, Any] | None:
    seconds: dict[str, float] = {}
    per_stage = lookup(data.summary, "wall_s")
    if isinstance(per_stage, Mapping):
        found = [(name, value, "summary.json", f"wall_s.{name}") for name, value in per_stage.items()]
    else:
        found = [(stage.name, stage.summary.get("wall_s"), stage.file("summary.json"), "wall_s") for stage in data.stages]
    for stage, value, file, name in found:
        if isinstance(value, int | float) and math.isfinite(value) and value > 0:
            seconds[stage] = float(value)
            ledger.note(f"Time of {stage}", duration(value), file, name)
    if not seconds:
        ledger.missing.append("Time of the stages: no wall_s in summary.json.")
        return None
    legend = [{"name": name, "text": duration(value), "colour": i % 6 + 1} for i, (name, value) in enumerate(seconds.items())]
    return {"svg": plots.timeline("Time of each stage", seconds), "total": duration(sum(seconds.values())), "legend": legend}


def _scored(data: ReportData) -> list[PromptAnswers]:
    """The answers whose language was scored; all of them when the summary does not say."""
    languages = data.summary.get("languages")
    return [row for row in data.answers if not languages or row.language in languages]


def _distributions(data: ReportData, ledger: Ledger) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = []
    rows = _scored(data)
    for title, name, unit in (
        ("Gold utility", GOLD, "score"),
        ("Reward model", REWARD_MODEL, "score"),
        ("Length of answers", "length", "tokens"),
    ):
        sides = []
        for side in ("before", "after"):
            answers = [answer for row in rows for answer in getattr(row, side)]
            values = [float(a.length) if name == "length" else a.score(name) for a in answers]
            sides.append([value for value in values if value is not None])
        if not sides[0] or not sides[1]:
            ledger.missing.append(f"Distribution of {title.lower()}: {data.answers_file} has no such values before and after.")
            continue
        old, new = (number(math.fsum(values) / len(values)) for values in sides)
        note = f"{len(sides[0])} answers before, {len(sides[1])} after"
        svg = plots.histogram(f"{title} before and after", sides[0], sides[1], unit)
        cards.append({"title": title, "svg": svg, "before": old, "after": new, "note": note})
        where = "tokens (words of text where not counted)" if name == "length" else name
        ledger.note(f"{title}, mean before → after", f"{old} → {new}", data.answers_file, where)
    return cards + _by_category(rows, data, ledger)


def _by_category(rows: Sequence[PromptAnswers], data: ReportData, ledger: Ledger) -> list[dict[str, Any]]:
    """Gold win rate of each category, when there are several and gold scores."""
    parts = subsets(rows, lambda row: row.category or "other")
    rates = {name: part.win_rates[GOLD] for name, part in parts.items() if GOLD in part.win_rates}
    if len(rates) < 2:
        return []
    for name, rate in rates.items():
        text = f"{percent(rate.mean)} ({percent(rate.low)} – {percent(rate.high)}), n = {rate.n}"
        ledger.note(f"Gold win rate, {name}", text, data.answers_file, "gold, by category")
    lines = [(f"{name} ({rate.n})", rate.mean, rate.low, rate.high) for name, rate in rates.items()]
    svg = plots.intervals("Gold win rate by category", lines, width=plots.WIDTH)
    note = "95% intervals over few prompts: wide"
    return [{"title": "Gold win rate by category", "svg": svg, "before": None, "after": None, "note": note}]


def _judges(data: ReportData, ledger: Ledger) -> dict[str, Any]:
    """How good the reward model is, and how far the annotators agree."""
    accuracy = ledger.number("Reward model accuracy", "reward_model.accuracy", percent)
    low, high = lookup(data.summary, "reward_model.low"), lookup(data.summary, "reward_model.high")
    facts: list[tuple[str, str, str]] = []
    if accuracy is not None:
        span = f"interval {percent(low)} – {percent(high)}" if isinstance(low, float) and isinstance(high, float) else ""
        pairs = ledger.number("Reward model held-out pairs", "reward_model.n")
        facts.append(("Held-out accuracy", percent(accuracy), span + (f", n = {pairs:g}" if pairs is not None else "")))
    for label, path, note, style in (
        ("Calibration error", "reward_model.ece", "mean gap between confidence and accuracy", number),
        ("Krippendorff's alpha", "agreement.krippendorff_alpha", "agreement beyond chance: 1 is full, 0 is chance", number),
        ("Raw agreement", "agreement.raw", "share of annotator pairs of one mind", percent),
    ):
        value = ledger.number(label, path, style)
        if value is None:
            ledger.missing.append(f"{label}: summary.json has no {path}.")
        else:
            facts.append((label, style(value), note))
    for file, name, tree in _calibrations(data):
        bins = lookup(tree, f"{name}.bins")
        if isinstance(bins, Sequence) and bins:
            ledger.note("Reliability plot", f"{len(bins)} bins", file, f"{name}.bins")
            return {"facts": facts, "svg": plots.reliability("Confidence and accuracy of the reward model", bins)}
    ledger.missing.append("Reliability plot: no calibration bins in the reward stage's summary.json.")
    return {"facts": facts, "svg": None}


def _calibrations(data: ReportData) -> Iterator[tuple[str, str, Row]]:
    yield "summary.json", "reward_model", data.summary
    for stage in data.stages:
        if stage.name == "reward":
            yield stage.file("summary.json"), "calibration", stage.summary


def _settings(data: ReportData) -> list[dict[str, Any]]:
    """Every setting of the resolved config, by top-level section; single values first."""
    config = data.manifest.get("config")
    if not isinstance(config, Mapping):
        return []
    general = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    sections = {"general": general} | {k: v for k, v in config.items() if isinstance(v, Mapping)}
    tables = ((name, [(key, _plain(value)) for key, value in flatten(tree)]) for name, tree in sections.items())
    return [{"name": name, "rows": rows} for name, rows in tables if rows]


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested dicts and lists as (dotted path, value); empty containers are leaves."""
    if isinstance(tree, Mapping) and tree:
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple) and any(isinstance(item, Mapping | list) for item in tree):
        items = [(str(i), value) for i, value in enumerate(tree)]
    else:
        return [(prefix, tree)]
    return [leaf for key, value in items for leaf in flatten(value, f"{prefix}.{key}" if prefix else key)]


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "(empty)"
    if isinstance(value, Mapping):
        return "(empty)" if not value else str(dict(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
