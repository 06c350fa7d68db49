"""`keel constitution`: answers are scored by principles, criticised and revised; the outcome trains, and people check a part of it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.critique.revise import Draft, revise
from keel.critique.rlaif import Answer
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.data.left_out import LeftOut
from keel.feedback.campaign import Campaign
from keel.feedback.rows import utc
from keel.judges.build import read_judges
from keel.judges.templates import load_template
from keel.rewards.constitution.config import Constitution
from keel.rewards.constitution.scoring import Scorer, make_scorer
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Task
from keel.verbs.constitution import rows
from keel.verbs.constitution.answers import CUT_OFF, Answered, Own, from_data, judge_of, own_model, sampled
from keel.verbs.constitution.measure import by_critic, by_labels, cases_of, errors
from keel.verbs.constitution.outcome import HISTORY, sorted_out, told
from keel.verbs.constitution.page import page
from keel.verbs.constitution.plan import first_answers, plan_constitution, plan_lines
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.constitution.summary import PAGE, kind, tell
from keel.verbs.constitution.writers import SELF, check_writers, writer_of
from keel.verbs.shared.account import Account
from keel.verbs.shared.judges import check_described, judge_named
from keel.verbs.shared.progress import Phases, phases
from keel.verbs.shared.session import open_session

log = logging.getLogger("keel")
JUDGEMENTS = "judgements.jsonl"
_SHOWN = 8


def run_constitution(recipe: ConstitutionRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Leaves ``answers.jsonl`` (with the score of each principle), ``demonstrations.jsonl``, ``pairs.jsonl``, ``revision_pairs.jsonl``,
    ``history.jsonl``, ``audit.jsonl`` (tasks for people), ``judgements.jsonl`` (where there is a judge), ``constitution.html`` and
    ``left_out.jsonl``. The summary's ``file`` is the folder. Started again after a kill, it pays for no call of a server twice."""
    data = load_data(recipe.data, recipe.seed)
    constitution, judge, admitted = recipe.constitution.admitted(judge_named, "a labeller", recipe.writes)
    judges = read_judges(recipe.constitution.judges) if judge is not None else None
    scorer = make_scorer(constitution, judge, judges, recipe.constitution.samples, keep=True)
    check_writers(recipe, scorer)
    check_described(scorer, data.prompts())
    for line in plan_lines(plan_constitution(recipe, data)):
        log.info("%s", line)
    with open_session("constitution", recipe, path, {data.source: data.fingerprint}, parent) as session:
        if (done := session.finished()) is not None:
            return done
        session.run.record(constitution=constitution.model_dump(mode="json"), **({"judges": [admitted]} if admitted else {}))
        account = Account(path, recipe.settings.max_refused, data=data)
        own = own_model(session, recipe) if recipe.needs_model else None
        answered = _answers(recipe, constitution, own, data, account)
        with phases() as begin:
            answers = _scored(scorer, answered, begin)
            lost = _without_score(answers)
            drafts = _revised(recipe, scorer, own, answers, begin)
            critics = _measured(recipe, scorer, own, answers, begin)
        found = sorted_out(recipe, scorer.constitution, answers, drafts)
        account.leave_out("constitution", (*lost, *found.left_out))
        written = found.files()
        if judge is not None:
            written[JUDGEMENTS] = list(rows.judgement_rows(scorer, judge, "constitution", utc(time.time())))
        for name, lines in written.items():
            write_atomic(path / name, b"".join(json_line(dict(line)) for line in lines))
        _store(recipe, found.tasks)
        summary = {
            **told(found, scorer, {name: len(lines) for name, lines in written.items()}),
            "critics": critics,
            "calls": begin.made,
            "cost": begin.cost,
            "cut_off": {"how": recipe.cut, "answers": len(found.cut) + sum(x.reason == CUT_OFF for x in account.left_of("answers"))},
            "left_out": dict(Counter(kind(x.reason) for x in (*account.left_of("answers"), *lost, *found.left_out))),
            "override": bool(admitted.get("override")),
            "file": str(path),
            "data": account.summary(),
        }
        shown = sorted(written[HISTORY], key=lambda d: -len(d["steps"]))[:_SHOWN]
        write_atomic(path / PAGE, page(summary, shown).encode())
        tell(summary, path)
        return session.finish(summary)


def _answers(recipe: ConstitutionRecipe, constitution: Constitution, own: Own | None, data: Dataset, account: Account) -> Answered:
    if recipe.source == "model":
        assert own is not None, "a recipe that samples has a model"
        found = sampled(own, recipe, data.prompts(), account)
    else:
        found, lost = from_data(data, constitution)
        account.leave_out("answers", lost)
    if not found:
        why = Counter(kind(x.reason) for x in account.left_of("answers"))
        mend = f"raise sampling.max_tokens ({recipe.sampling.max_tokens}), or cut=worse or keep; " * (CUT_OFF in why)
        told = ", ".join(f"{n}x {reason}" for reason, n in why.items())
        raise DataError(f"there is no answer to score ({told})", f"{mend}see {account.out / 'left_out.jsonl'}")
    return found


def _scored(scorer: Scorer, answered: Answered, begin: Phases) -> list[Answer]:
    unique = {(p.prompt_id, c.text): (p, c) for p, c in answered}
    calls = sum(scorer.calls(p) for p, _ in unique.values())
    found = scorer.score([(p, c.text) for p, c in answered], begin("scores", calls) if calls else None)
    return [Answer(p, c, s) for (p, c), s in zip(answered, found, strict=True)]


def _without_score(answers: Sequence[Answer]) -> list[LeftOut]:
    """The answers that got no score, by name. Raises DataError where none got one."""
    lost = [LeftOut(a.candidate.candidate_id, a.prompt.source_id, a.scored.error) for a in answers if a.scored.error]
    if len(lost) == len(answers):
        raise DataError(f"no answer got a score (first: {lost[0].reason})", "mend the judge or the rules, and start the same command again")
    return lost


def _revised(recipe: ConstitutionRecipe, scorer: Scorer, own: Own | None, answers: Sequence[Answer], begin: Phases) -> list[Draft]:
    if not recipe.revise.answers:
        return []
    first = first_answers([(a.prompt, a.candidate) for a in answers], recipe.revise.answers)
    scores = {a.candidate.candidate_id: a.scored for a in answers}
    critic = writer_of(recipe, recipe.revise.critic, "critique", scorer.constitution, scorer, own)
    reviser = writer_of(recipe, recipe.revise.reviser, "revision", scorer.constitution, scorer, own)
    items = [(prompt, candidate.text, scores[candidate.candidate_id]) for prompt, candidate in first]
    return revise(items, scorer, critic, reviser, recipe.revise, begin)


def _measured(recipe: ConstitutionRecipe, scorer: Scorer, own: Own | None, answers: Sequence[Answer], begin: Phases) -> dict[str, Any]:
    """How often critics are wrong, by name."""
    config = recipe.measure
    if not config.answers:
        return {}
    cases = cases_of(answers, scorer, config.answers, recipe.seed)
    critic = writer_of(recipe, config.critic, "critique", scorer.constitution, scorer, own)
    name = f"{config.critic or SELF}, in words"
    found = {name: errors(cases, by_critic(cases, critic, scorer, begin("measure: critiques", len(cases))))}
    if config.labels and own is not None:
        template = load_template(f"rubric_{scorer.constitution.language}")
        judge = judge_of(own, recipe.model, scorer.constitution.language)
        said = by_labels(cases, judge, (float(template.low), float(template.high)), scorer, begin("measure: labels", len(cases)))
        found[f"{SELF}, by one label"] = errors(cases, said)
    return found


def _store(recipe: ConstitutionRecipe, tasks: Sequence[Task]) -> None:
    """The tasks go into a store of feedback, where the settings name one."""
    config = recipe.audit
    if not config.store or not tasks:
        return
    from keel.feedback.db import Store

    with Store(config.store) as store:
        if all(c.name != config.campaign for c in store.campaigns()):
            store.add_campaign(Campaign(config.campaign, config.people, "pairwise", config.protocol))
        store.add_tasks(config.campaign, tasks)
