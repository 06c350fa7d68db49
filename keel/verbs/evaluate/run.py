"""`keel eval`: models on held-out prompts, scored side by side, each against the baseline.

The headline is the gold utility, which simulated annotators see through noise only and which no reward reads; reward model and rules are
reported apart from it. Sampling and randomness are the evaluation's own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.evaluate.compare import PromptAnswers, compare
from keel.evaluate.hallucination.answers import made_up
from keel.evaluate.judge_scorer import Wins, with_judge
from keel.evaluate.measures import retention
from keel.evaluate.result_lines import result_lines
from keel.feedback.texts import prompt_row
from keel.judges.ask import check_images
from keel.rewards.composition.rewards import Reward
from keel.rewards.sources.world import WorldSource
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Group
from keel.verbs.evaluate.answering import drawn_in_full, sequence_kl
from keel.verbs.evaluate.parts import Parts
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.evaluate.results import Compared, made_board, scorer_of
from keel.verbs.evaluate.scoring import pair_rows, side_answers
from keel.verbs.evaluate.sets import Sets, read_sets
from keel.verbs.evaluate.sides import answered_by_all, compare_texts_only, other_of, shots_of, side_of, validation_of
from keel.verbs.evaluate.talks import talks
from keel.verbs.shared.account import Account
from keel.verbs.shared.judges import check_seen_by, record_judges
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.session import open_session

log = logging.getLogger("keel")


def run_eval(recipe: EvalRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Sample all models, score, compare, say the result; leaves ``samples/evaluation.jsonl`` and returns the summary."""
    summary = _evaluated(recipe, path, parent)
    for line in result_lines(summary):
        print(line)
    print(f"page: {path / 'report.html'}")
    return summary


def _evaluated(recipe: EvalRecipe, path: Path, parent: str) -> dict[str, Any]:
    config = recipe.evaluate
    sets = read_sets(config)
    parts = Parts(recipe)
    data, asked = sets.data, sets.prompts
    validation = validation_of(recipe, data)
    fingerprints = {d.source: d.fingerprint for d in (data, validation, *sets.outside.values()) if d is not None}
    with open_session("eval", recipe, path, fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        total = 3 + len(recipe.others)
        session.bus.emit("run_started", 0, total_steps=total)
        account = Account(path, recipe.settings.max_refused, prompts=data, validation=validation, **sets.outside)
        scorer = scorer_of(recipe)  # refused before anything is sampled
        check_seen_by(recipe.rewards, [*asked, *(validation.prompts() if validation is not None else ())])
        if scorer is not None:
            check_images(scorer.judge, ((p, ()) for p in asked))

        def told(step: int, groups: Sequence[Group]) -> None:
            session.bus.emit("step", step, metrics={"answers": float(sum(len(g.rollouts) for g in groups))})

        before, renderer_before, _ = side_of(recipe, recipe.baseline, asked, parts, account, "baseline")
        told(1, before.groups)
        others: list[Compared] = []
        for k, other in enumerate(recipe.others):
            others.append(other_of(recipe, other, before, renderer_before, asked, parts, account))
            told(2 + k, others[-1].groups)
        after, renderer, ensemble = side_of(recipe, recipe.model, asked, parts, account, "model")
        told(total - 1, after.groups)
        before, after, others = answered_by_all(before, after, others)
        same = renderer_before.tokenizer.get_vocab() == renderer.tokenizer.get_vocab()
        if not same:
            compare_texts_only(recipe)
        given = rewards_of(recipe.rewards, recipe, after.inference.model, renderer)
        if recipe.environment is not None:
            given = [Reward(WorldSource(), 1.0), *given]
        record_judges(session.run, given, [scorer.admitted] if scorer is not None else [])
        scored_before = side_answers(recipe, before.groups, given)
        every_row = pair_rows(before.groups, scored_before, side_answers(recipe, after.groups, given))
        rows_of = {recipe.model_name: every_row}
        rows = [row for row in every_row if sets.inside(row.prompt_id)]
        write_atomic(path / "samples" / "prompts.jsonl", b"".join(json_line(prompt_row(g.prompt)) for g in before.groups))
        summary: dict[str, Any] = {"ensemble": ensemble} if ensemble else {}
        if config.kl_prompts and same and after.whole and recipe.environment is None:
            summary["kl"] = sequence_kl(after, before, drawn_in_full(recipe, after, renderer))
        if before.retained is not None and after.retained is not None and same:
            summary["retention"] = retention(before.retained, after.retained, after.retained_tokens).to_json()
        curve = shots_of(recipe, after.inference.model, renderer, given, "model", account)
        price = {key: summary[key] for key in ("kl", "retention") if key in summary}
        compared = [Compared(recipe.model_name, _inside(sets, after.groups), price, recipe.at, rows, curve)]
        for other in others:
            rows_of[other.name] = pair_rows(before.groups, scored_before, side_answers(recipe, other.groups, given))
            kept = [row for row in rows_of[other.name] if sets.inside(row.prompt_id)]
            compared.append(replace(other, groups=_inside(sets, other.groups), rows=kept))
        summary["board"], wins = made_board(recipe, path, _inside(sets, before.groups), compared, scorer)
        _write_samples(path, recipe.model_name, every_row, compared if recipe.others else (), wins)
        if scorer is not None and "judge" in summary["board"]["judged"]:
            summary["win_rate_judge"] = summary["board"]["judged"].pop("judge")
        if recipe.environment is not None:
            summary["environment"] = talks(recipe, _inside(sets, before.groups), compared)
        if gap := sets.gap(config, rows_of):
            summary["gap"] = gap
        measured = {recipe.model_name: after.measured, **{o.name: o.measured for o in others}}
        summary |= parts.told(before.measured, measured, recipe.baseline_name)
        if config.refusals is not None:
            lines = [json_line(row) for row in parts.rows(before.measured, measured, recipe.baseline_name)]
            write_atomic(path / "samples" / "refusals.jsonl", b"".join(lines))
        session.bus.emit("step", total, metrics={})
        two = compare(rows, languages=config.languages, level=config.level)
        if (hallucination := made_up(rows, draws=config.draws, level=config.level, seed=config.seed)) is not None:
            summary["hallucination"] = hallucination
        return session.finish(summary | two.to_json() | {"data": account.summary()})


def _write_samples(
    path: Path, first: str, every_row: Sequence[PromptAnswers], compared: Sequence[Compared], wins: Mapping[str, Wins]
) -> None:
    """``samples/evaluation.jsonl``, and of more models ``samples/models.jsonl``: answers with what each scorer said of each."""
    rows = with_judge(every_row, wins.get(first))
    write_atomic(path / "samples" / "evaluation.jsonl", b"".join(json_line(row.to_row()) for row in rows))
    if compared:
        lines = [json_line({"model": c.name, **row.to_row()}) for c in compared for row in with_judge(c.rows, wins.get(c.name))]
        write_atomic(path / "samples" / "models.jsonl", b"".join(lines))


def _inside(sets: Sets, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Answers to what is held out, without those to the outside sets."""
    return tuple(g for g in groups if sets.inside(g.prompt.prompt_id))
