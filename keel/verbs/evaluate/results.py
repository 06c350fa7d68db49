"""What an evaluation found, put together: all models by all scorers, a judge and people among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.evaluate import judge_scorer
from keel.evaluate.board import Entry, Shares, board, shares_of
from keel.evaluate.compare import PromptAnswers
from keel.evaluate.config import EvaluateConfig
from keel.evaluate.wording import wording
from keel.judges.ask import Judge
from keel.judges.gate import admit, read_report
from keel.types import Group, Prompt
from keel.verbs.evaluate.parts import Measured
from keel.verbs.evaluate.people import people
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.shared.judges import judge_named


@dataclass(frozen=True, slots=True)
class Compared:
    """A model beside the baseline: its answers, what they cost, where it stands on a learning curve, its few-shot curve."""

    name: str
    groups: tuple[Group, ...]
    price: Mapping[str, Any]
    at: float | None = None
    rows: Sequence[PromptAnswers] = ()
    shots: Mapping[str, Any] = field(default_factory=dict[str, Any])
    measured: Measured = field(default_factory=Measured)


@dataclass(frozen=True, slots=True)
class Scorer:
    """The judge of an evaluation, what the manifest is told of it, and its report."""

    judge: Judge
    admitted: Mapping[str, Any]
    report: Mapping[str, Any] | None

    def judged(
        self, recipe: EvalRecipe, rows: Sequence[PromptAnswers], before: Sequence[Group], after: Sequence[Group]
    ) -> tuple[judge_scorer.Wins, dict[str, Any]]:
        """The judge's shares on the languages that are scored, and ``win_rate_judge``."""
        config = recipe.evaluate
        sides = [
            (old.prompt, _texts(old), _texts(new))
            for row, old, new in zip(rows, before, after, strict=True)
            if not config.languages or row.language in config.languages
        ]
        judged = judge_scorer.judge_answers(self.judge, sides)
        how = {"draws": config.draws, "level": config.level, "seed": config.seed}
        return judged, judge_scorer.summary(judged, self.report, **how) | {"judge": self.judge.name}


def _texts(group: Group) -> list[str | None]:
    """A group's answers; None for a rollout that failed, which has no text to judge."""
    return [rollout.text if valid else None for rollout, valid in zip(group.rollouts, group.valid_G.tolist(), strict=True)]


def scorer_of(recipe: EvalRecipe) -> Scorer | None:
    """Raises ConfigError for a judge that is not there, or may not be a scorer."""
    if (use := recipe.judge) is None:
        return None
    judge = judge_named(use.judges, use.judge)
    admitted = admit(judge, use.report, use.override, "a scorer")
    report = read_report(use.report) if use.report else None
    same = report is not None and report["judge"]["identity"] == judge.identity
    return Scorer(judge, admitted, report if same else None)


def made_board(
    recipe: EvalRecipe, path: Path, baseline: Sequence[Group], compared: Sequence[Compared], scorer: Scorer | None
) -> tuple[dict[str, Any], dict[str, judge_scorer.Wins]]:
    """All models by all scorers, and the judge's verdicts by model. ``judged``: what else is told of the judge, for the first model."""
    config = recipe.evaluate
    given: dict[str, dict[str, Shares]] = {c.name: {} for c in compared}
    judged: dict[str, Any] = {}
    wins: dict[str, judge_scorer.Wins] = {}
    for c in compared if scorer is not None else ():
        assert scorer is not None
        wins[c.name], judged[c.name] = scorer.judged(recipe, c.rows, baseline, c.groups)
        given[c.name]["judge"] = Shares(wins[c.name].shares, wins[c.name].ties)
    if recipe.people is not None:
        for name, shares in people(recipe.people, path, baseline, {c.name: c.groups for c in compared}).items():
            given[name]["people"] = shares
    entries = [
        Entry(c.name, [r for r in c.rows if not config.languages or r.language in config.languages], given[c.name], c.price, c.at)
        for c in compared
    ]
    prompts = {g.prompt.prompt_id: g.prompt for g in baseline}
    how = {"draws": min(config.draws, 1_000), "level": config.level, "seed": config.seed}
    try:
        found = board(entries, recipe.baseline_name, headline=config.headline, fields=_fields(config, prompts), **how)
    except ValueError as error:
        raise DataError(f"evaluate.headline: {error}", "name one of them") from None
    languages = [row.language for row in compared[0].rows]
    found["other_languages"] = dict(Counter(name for name in languages if config.languages and name not in config.languages))
    for c in compared:  # the win rate behind the judge's errors, where its report tells of them
        if judged.get(c.name, {}).get("error_carried"):
            found["models"][c.name]["win_rates"]["judge"] |= {k: judged[c.name][k] for k in ("mean", "low", "high", "as_judged")}
    found["judged"] = {"judge": judged[compared[0].name]} if judged else {}
    found["shots"] = {c.name: c.shots for c in compared if c.shots}
    if config.reference:
        found["wording"] = _wording(recipe, prompts, entries, found["headline"], how)
    return found, wins


def _fields(config: EvaluateConfig, prompts: Mapping[str, Prompt]) -> dict[str, dict[str, str]]:
    """Values of ``evaluate.groups`` by prompt. Raises DataError for a field that no prompt has."""
    found = {name: {i: str(p.meta[name]) for i, p in prompts.items() if p.meta.get(name) is not None} for name in config.groups}
    if empty := [name for name, values in found.items() if not values]:
        raise DataError(f"evaluate.groups: no prompt has the field {empty[0]!r}", "keel data show tells which fields rows have")
    return found


def _wording(recipe: EvalRecipe, prompts: Mapping[str, Prompt], entries: Sequence[Entry], headline: str, how: Mapping[str, Any]) -> Any:
    """BLEU and CIDEr of all models beside what the headline's scorer says."""
    name = recipe.evaluate.reference
    said = {i: p.meta.get(name) for i, p in prompts.items()}
    references = {i: [v] if isinstance(v, str) else [str(x) for x in v] for i, v in said.items() if v}
    texts = {e.name: {r.prompt_id: r.after[0].text for r in e.rows if r.after} for e in entries}
    texts[recipe.baseline_name] = {r.prompt_id: r.before[0].text for r in entries[0].rows if r.before}
    human = {e.name: s.won for e in entries if (s := shares_of(e, headline)) is not None}
    try:
        return wording(texts, references, human, **how) | {"beside": headline}
    except ValueError as error:
        raise DataError(
            f"evaluate.reference: {error}: no prompt has a field {name!r}", "name the field with the reference answer"
        ) from None
