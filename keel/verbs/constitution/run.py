"""`keel constitution`: answers are scored by principles, criticised and revised; the outcome trains, and people check a part of it."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.critique.revise import FAILED, SATISFIED, Draft, revise
from keel.critique.rlaif import Answer, Compared, compare, for_people
from keel.data.dataset import load as load_data
from keel.data.left_out import LeftOut
from keel.feedback.campaigns import Campaign
from keel.feedback.rows import task_row, utc
from keel.judges.build import read_judges
from keel.judges.templates import load_template
from keel.rewards.constitution.config import Constitution
from keel.rewards.constitution.scoring import Scorer, make_scorer
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Task
from keel.verbs.constitution import rows
from keel.verbs.constitution.answers import Answered, Own, from_data, judge_of, own_model, sampled
from keel.verbs.constitution.measure import by_critic, by_labels, cases_of, errors
from keel.verbs.constitution.page import page
from keel.verbs.constitution.plan import first_answers, plan_constitution, plan_lines
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.constitution.writers import SELF, check_writers, writer_of
from keel.verbs.shared.account import Account
from keel.verbs.shared.judges import judge_named
from keel.verbs.shared.progress import Phases, money, phases
from keel.verbs.shared.session import open_session

log = logging.getLogger("keel")
ANSWERS, DEMONSTRATIONS, PAIRS, REVISIONS = "answers.jsonl", "demonstrations.jsonl", "pairs.jsonl", "revision_pairs.jsonl"
HISTORY, AUDIT, JUDGEMENTS, PAGE = "history.jsonl", "audit.jsonl", "judgements.jsonl", "constitution.html"
_SHOWN = 8


def run_constitution(recipe: ConstitutionRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Leaves ``answers.jsonl`` (with the score of each principle), ``demonstrations.jsonl``, ``pairs.jsonl``, ``revision_pairs.jsonl``,
    ``history.jsonl``, ``audit.jsonl`` (tasks for people), ``judgements.jsonl`` (where there is a judge), ``constitution.html`` and
    ``left_out.jsonl``. The summary's ``file`` is the folder. Started again after a kill, it pays for no call of a server twice."""
    data = load_data(recipe.data, recipe.seed)
    found, judge, admitted = recipe.constitution.admitted(judge_named, "a labeller")
    judges = read_judges(recipe.constitution.judges) if judge is not None else None
    scorer = make_scorer(found, judge, judges, recipe.constitution.samples)
    check_writers(recipe, scorer)
    for line in plan_lines(plan_constitution(recipe, data)):
        log.info("%s", line)
    with open_session("constitution", recipe, path, {data.source: data.fingerprint}, parent) as session:
        if (done := session.finished()) is not None:
            return done
        session.run.record(constitution=found.model_dump(mode="json"), **({"judges": [admitted]} if admitted else {}))
        account = Account(path, recipe.settings.max_refused, data=data)
        own = own_model(session, recipe) if recipe.needs_model else None
        answered = _answers(recipe, own, data, account)
        with phases() as begin:
            answers = _scored(scorer, answered, begin)
            lost = [LeftOut(a.candidate.candidate_id, a.prompt.source_id, a.scored.error) for a in answers if a.scored.error]
            if len(lost) == len(answers):
                raise DataError(
                    f"no answer got a score (first: {lost[0].reason})", "mend the judge or the rules, and start the same command again"
                )
            drafts = _revised(recipe, scorer, own, answers, begin)
            critics = _measured(recipe, scorer, own, answers, begin)
        compared = compare(answers, recipe.pairs, found.how, found.floor)
        for_tasks = for_people(compared, recipe.audit, recipe.seed)
        tasks = [rows.audit_task(pair, arm, recipe.audit) for pair, arm in for_tasks]
        taught = [d for d in drafts if d.done == SATISFIED or (not recipe.revise.keep and d.done != FAILED)]
        lost += [LeftOut(d.prompt.prompt_id, d.prompt.source_id, f"no demonstration: {d.done}") for d in drafts if d not in taught]
        lost += [LeftOut(p.name, p.chosen.prompt.source_id, f"low confidence {p.confidence:.2f}") for p in compared.unsure]
        account.leave_out("constitution", lost)
        better = [d for d in drafts if d.improved]
        written: dict[str, Sequence[Mapping[str, Any]]] = {
            ANSWERS: [rows.answer_row(a) for a in answers],
            DEMONSTRATIONS: [rows.demonstration_row(d) for d in taught],
            PAIRS: [rows.scored_pair_row(p) for p in compared.kept],
            REVISIONS: [rows.revision_pair_row(d) for d in better],
            HISTORY: [rows.draft_row(d) for d in drafts],
            AUDIT: [task_row(t) for t in tasks],
        }
        if judge is not None:
            written[JUDGEMENTS] = list(rows.judgement_rows(scorer, judge, "constitution", utc(time.time())))
        for name, lines in written.items():
            write_atomic(path / name, b"".join(json_line(dict(line)) for line in lines))
        _store(recipe, tasks)
        summary = {
            "prompts": len({a.prompt.prompt_id for a in answers}),
            "answers": len(answers),
            **{name.removesuffix(".jsonl"): len(lines) for name, lines in written.items() if name not in (ANSWERS, JUDGEMENTS, HISTORY)},
            "principles": _principles(found, answers),
            "score": _mean([a.scored.score for a in answers if not a.scored.error]),
            "compared": _compared(compared),
            "conflicts": [{"won": w, "lost": x, "by": by, "count": n} for (w, x, by), n in _commonest(compared)],
            "overruled": compared.overruled,
            "revised": _revision(drafts, scorer),
            "critics": critics,
            "calls": begin.made,
            "cost": begin.cost,
            "left_out": dict(Counter(x.reason.partition(":")[0].rstrip("0123456789. ") for x in lost)),
            "override": bool(admitted.get("override")),
            "file": str(path),
            "data": account.summary(),
        }
        shown = sorted(written[HISTORY], key=lambda d: -len(d["steps"]))[:_SHOWN]
        write_atomic(path / PAGE, page(summary, shown).encode())
        _tell(summary, path)
        return session.finish(summary)


def _answers(recipe: ConstitutionRecipe, own: Own | None, data: Any, account: Account) -> Answered:
    if recipe.source == "model":
        assert own is not None, "a recipe that samples has a model"
        found = sampled(own, recipe, data.prompts(), account)
    else:
        found, lost = from_data(data)
        account.leave_out("answers", lost)
    if not found:
        raise DataError("there is no answer to score", f"see {account.out / 'left_out.jsonl'}")
    return found


def _scored(scorer: Scorer, answered: Answered, begin: Phases) -> list[Answer]:
    unique = {(p.prompt_id, c.text): (p, c) for p, c in answered}
    calls = sum(scorer.calls(p) for p, _ in unique.values())
    found = scorer.score([(p, c.text) for p, c in answered], begin("scores", calls) if calls else None)
    return [Answer(p, c, s) for (p, c), s in zip(answered, found, strict=True)]


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


def _principles(found: Constitution, answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """How well each principle is kept by all answers."""
    table: dict[str, dict[str, Any]] = {}
    for p in found.principles:
        values = [a.scored.p[p.name] for a in answers if p.name in a.scored.p]
        told = {"band": found.band_of(p), "aspect": p.aspect, "weight": p.weight, "answers": len(values), "mean": _mean(values)}
        table[p.name] = told | {"broken": sum(v < p.least for v in values)}
    return table


def _compared(found: Compared) -> dict[str, int]:
    told = {"kept": len(found.kept), "low confidence": len(found.unsure)}
    return told | {"too close": found.close, "beyond pairs.per_prompt": found.surplus}


def _commonest(found: Compared) -> list[tuple[tuple[str, str, str], int]]:
    return sorted(found.conflicts.items(), key=lambda x: (-x[1], x[0]))


def _revision(drafts: Sequence[Draft], scorer: Scorer) -> dict[str, Any]:
    """How the answers ended, what came of the rounds, and what it did to the scores."""
    scored = [d for d in drafts if d.done != FAILED]
    if not scored:
        return {}
    steps = [s for d in drafts for s in d.steps]
    taken = [s for s in steps if s.outcome == "revised"]
    known = [s for s in steps if scorer.known(scorer.constitution.named(s.principle))]
    torn = Counter((c.won, c.lost, s.outcome == "revised") for s in steps for c in s.conflicts)
    return {
        "ended": dict(Counter(d.done for d in drafts)),
        "outcomes": dict(Counter(s.outcome for s in steps)),
        "by_principle": {
            name: dict(Counter(s.outcome for s in steps if s.principle == name)) for name in dict.fromkeys(s.principle for s in steps)
        },
        "failed_replies": dict(Counter(f.partition(":")[0] for s in steps for f in s.failed)),
        "score_before": _mean([d.scored.score for d in scored]),
        "score_after": _mean([d.now.score for d in scored]),
        "improved": sum(d.improved for d in scored),
        "worse": sum(d.now.score < d.scored.score for d in scored),
        "edit": _mean([s.edit for s in taken if s.edit is not None]),
        "severity": _mean([float(s.severity) for s in steps if s.severity]),
        "faults_not_seen": {"known": len(known), "not_seen": sum(s.outcome == "the critic sees no fault" for s in known)},
        "conflicts": [{"won": w, "lost": x, "taken": t, "count": n} for (w, x, t), n in torn.most_common()],
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


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


def _tell(summary: Mapping[str, Any], path: Path) -> None:
    """The outcome in a few lines."""
    log.info(
        "%d answers, mean score %s; %d pairs, %d for people",
        summary["answers"],
        _number(summary["score"]),
        summary["pairs"],
        summary["audit"],
    )
    for name, p in summary["principles"].items():
        log.info("  %-16s broken by %d of %d answers", name, p["broken"], p["answers"])
    for c in summary["conflicts"][:5]:
        log.info("  %s over %s %dx, by %s", c["won"] or "neither", c["lost"], c["count"], c["by"])
    if revised := summary["revised"]:
        ended = ", ".join(f"{n} {name}" for name, n in revised["ended"].items())
        text = "revised: %s; score %s -> %s, %d demonstrations, %d pairs"
        counts = (summary["demonstrations"], summary["revision_pairs"])
        log.info(text, ended, _number(revised["score_before"]), _number(revised["score_after"]), *counts)
    for name, found in summary["critics"].items():
        t = found["all"]
        wrong = (
            "no verdict at all"
            if t["wrong"] is None
            else "wrong in {:.0%} [{:.0%}, {:.0%}]".format(*(t["wrong"][k] for k in ("mean", "low", "high")))
        )
        beside = "" if t["always_the_same"] is None else f"; who always says the same is wrong in {t['always_the_same']:.0%}"
        log.info("critic %s: %s%s; %d of %d without a verdict", name, wrong, beside, t["without_verdict"], t["cases"])
    log.info("%d calls made, cost %s; report: %s", summary["calls"], money(summary["cost"]), path / PAGE)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
