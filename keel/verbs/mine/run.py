"""The stage `mine`: fresh answers of a policy, judged; failures by reason become tasks for people, hacks become rejected answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DataError
from keel.core.python_file import load_object
from keel.data.dataset import load as load_data
from keel.data.left_out import LeftOut
from keel.feedback.active import Planned, plan
from keel.feedback.candidates import make_candidate
from keel.feedback.rows import named, task_row
from keel.feedback.store import pair_row
from keel.loops.gathering import sample_groups
from keel.rewards.composition.rewards import apply_rewards
from keel.rollout.local import LocalSampler
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Group, Pair, SampleRequest, Task
from keel.verbs.mine.reasons import REASONS, Judged, PairFound, capped, features, kind_of, pairs_of, turned, with_reasons
from keel.verbs.mine.recipe import MineRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.judges import check_seen_by
from keel.verbs.shared.prompts import Prompts, encode
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled import fit_scores
from keel.verbs.shared.session import Session, load, open_session, record, record_sampling
from keel.verbs.shared.tasks import read_tasks

log = logging.getLogger("keel")
TASKS, FAILURES, HACKS = "tasks.jsonl", "failures.jsonl", "hack_pairs.jsonl"
_SHOWN = 3  # answers a reason, for the report


def run_mine(recipe: MineRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Leaves ``tasks.jsonl`` (reason, arm and priority in each task's meta, which people never see), ``failures.jsonl`` (every answer with
    a reason), ``hack_pairs.jsonl``, ``left_out.jsonl``. The summary's ``file`` is the folder."""
    data = load_data(recipe.data, recipe.seed)
    check_seen_by(recipe.rewards, data.prompts())
    with open_session("mine", recipe, path, {data.source: data.fingerprint}, parent) as session:
        if (done := session.finished()) is not None:
            return done
        account = Account(path, recipe.settings.max_refused, prompts=data)
        answers, lost = _answers(session, recipe, account, data.prompts())
        account.leave_out("answers", lost)
        own = recipe.mine.hacks.detector
        answers = with_reasons(answers, recipe.mine, load_object(own, "mine.hacks.detector") if own else None)
        known = [t for file in recipe.mine.known for t in read_tasks(Path(file))]
        asked = frozenset(frozenset(c.candidate_id for c in t.candidates) for t in known)
        pairs = pairs_of(answers, recipe.mine, asked)
        if not pairs:
            raise DataError("no prompt got two different answers that were not asked before", "sample hotter or more, or other prompts")
        planned = _plan(pairs, recipe)
        tasks = [_task(pair, p, recipe) for pair, p in planned]
        write_atomic(path / TASKS, b"".join(json_line(task_row(t)) for t in tasks))
        failures = [a for a in answers if a.reasons]
        write_atomic(path / FAILURES, b"".join(json_line(_failure(a)) for a in failures))
        rejected = _hack_pairs(answers, recipe, account)
        write_atomic(path / HACKS, b"".join(map(json_line, rejected)))
        return session.finish(
            {
                "prompts": len({a.prompt.prompt_id for a in answers}),
                "answers": len(answers),
                "pairs": len(pairs),
                "failures": len(failures),
                "mined": _mined(answers, pairs, [p for p, _ in planned]),
                "tasks": len(tasks),
                "arms": dict(Counter(p.arm for _, p in planned)),
                "hack_pairs": len(rejected),
                "file": str(path),
                "data": account.summary(),
            }
        )


def _answers(session: Session, recipe: MineRecipe, account: Account, prompts: Any) -> tuple[list[Judged], list[LeftOut]]:
    """Fresh answers with the reward model's scores, and those that got none, by name."""
    loaded, renderer = load(recipe)
    record(session, loaded, renderer)
    loaded.model.freeze()
    params = recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    encoded: Prompts = encode(prompts, renderer, account, "prompts", params.max_tokens)
    sampler = LocalSampler(loaded.model, renderer.decode, recipe.sampler)
    record_sampling(session, sampler)
    first = dict(list(encoded.items())[:16])
    rewards = rewards_of(recipe.rewards, recipe, loaded.model, renderer, fit_scores(sampler, first, params, recipe.samples, renderer))
    log.info("sampling %d answers to each of %d prompts", recipe.samples, len(encoded))
    requests = [SampleRequest(i, one, recipe.samples, params, recipe.seed) for i, (_, one) in encoded.items()]
    groups = apply_rewards(sample_groups(sampler, requests, {i: p for i, (p, _) in encoded.items()}), rewards)
    name = recipe.judge.name
    if "unsure" in recipe.mine.changed and f"{name}/epistemic" not in groups[0].parts:
        raise ConfigError(
            "mine.unsure would have no effect: the reward model has one member", "train it with head.members, or leave it out"
        )
    found: list[Judged] = []
    lost: list[LeftOut] = []
    for group in groups:
        of_group, out = _judged(group, name, recipe.model, name in recipe.mine.rules)
        found += of_group
        lost += out
    if not found:
        raise DataError("no answer got a score", "see left_out.jsonl")
    return found, lost


def _judged(group: Group, judge: str, model: str, limited: bool = False) -> tuple[list[Judged], list[LeftOut]]:
    """The answers with what was measured; the reward model's own score is among the parts where a rule limits it."""
    found: list[Judged] = []
    lost: list[LeftOut] = []
    spread_G = group.parts.get(f"{judge}/epistemic")
    for i, rollout in enumerate(group.rollouts):
        if not bool(group.valid_G[i]) or not rollout.text.strip():
            why = "sampling failed" if rollout.finish_reason == "error" else "is empty" if not rollout.text.strip() else "got no score"
            lost.append(LeftOut(f"{group.prompt.prompt_id}/{rollout.sample}", group.prompt.source_id, why))
            continue
        origin = {"source": "policy", "model": model, "sample": rollout.sample, "finish_reason": rollout.finish_reason}
        candidate = make_candidate(group.prompt.prompt_id, rollout.text, origin)
        parts = {k: float(v[i]) for k, v in group.parts.items() if not k.startswith(f"{judge}/") and (limited or k != judge)}
        spread = float(spread_G[i]) if spread_G is not None else 0.0
        ended = rollout.finish_reason != "length"
        found.append(Judged(group.prompt, candidate, float(group.parts[judge][i]), spread, parts, len(rollout), ended, {}))
    return found, lost


def _plan(pairs: Sequence[PairFound], recipe: MineRecipe) -> list[tuple[PairFound, Planned]]:
    """The pairs that become tasks, in the order in which people get them: chosen ones have a reason, random ones may have none."""
    by_name = {f"{i}": pair for i, pair in enumerate(pairs)}
    config = recipe.mine
    priority_T = capped(pairs, config.per_prompt)
    with_reason = int((priority_T > 0).sum())
    planned = plan(list(by_name), priority_T, features(pairs), config.tasks, control=config.control, seed=recipe.seed)
    short = [p for p in planned if p.arm == "chosen" and p.priority == 0]
    if short:
        log.info("only %d pairs have a reason: %d of %d tasks are not filled", with_reason, len(short), config.tasks)
    return [(by_name[p.task], p) for p in planned if p not in short]


def _task(pair: PairFound, planned: Planned, recipe: MineRecipe) -> Task:
    one, two = turned(pair, recipe.seed)
    meta = {
        "mined": {
            "arm": planned.arm,
            "priority": round(planned.priority, 4),
            "reasons": {name: round(value, 4) for name, value in pair.reasons.items()},
            "scores": [round(one.score, 4), round(two.score, 4)],
        }
    }
    candidates = (one.candidate, two.candidate)
    return named(Task("", one.prompt, candidates, "pairwise", recipe.mine.protocol, source_id=one.prompt.source_id, meta=meta))


def _failure(a: Judged) -> dict[str, Any]:
    row = {"prompt_id": a.prompt.prompt_id, "prompt": a.prompt.text or a.prompt.last_user_text, "text": a.candidate.text}
    return {**row, "candidate_id": a.candidate.candidate_id, "score": a.score, "spread": a.spread, "length": a.length, **_why(a)}


def _why(a: Judged) -> dict[str, Any]:
    return {"finished": a.finished, "rewards": dict(a.parts), "reasons": dict(a.reasons)}


def _hack_pairs(answers: Sequence[Judged], recipe: MineRecipe, account: Account) -> list[dict[str, Any]]:
    """Each hack rejected beside the best answer to its prompt that broke nothing; the row's origin says why."""
    if not recipe.mine.hacks.pairs:
        return []
    good: dict[str, Judged] = {}
    for a in answers:
        if not any(kind_of(r) in ("hack", "rule") for r in a.reasons) and a.finished:
            best = good.get(a.prompt.prompt_id)
            good[a.prompt.prompt_id] = a if best is None or a.score > best.score else best
    rows: dict[str, dict[str, Any]] = {}
    lost: list[LeftOut] = []
    for a in answers:
        why = {r.partition(":")[2]: v for r, v in a.reasons.items() if kind_of(r) == "hack"}
        if not why:
            continue
        best = good.get(a.prompt.prompt_id)
        if best is None:
            lost.append(LeftOut(a.candidate.candidate_id, a.prompt.source_id, "a hack without a clean answer beside it"))
            continue
        name = f"{a.prompt.prompt_id}:{best.candidate.candidate_id}>{a.candidate.candidate_id}"
        pair = Pair(name, a.prompt, best.candidate.messages, a.candidate.messages)
        origin = {"mined": "hack", "found": why, "rejected": dict(a.candidate.origin), "chosen": dict(best.candidate.origin)}
        rows[name] = {**pair_row(pair), "origin": origin}
    account.leave_out("hacks", lost)
    return list(rows.values())


def _mined(answers: Sequence[Judged], pairs: Sequence[PairFound], planned: Sequence[PairFound]) -> dict[str, Any]:
    """By reason: answers (or pairs, for `close`) that have it, tasks that have it, and a few examples."""
    table: dict[str, dict[str, Any]] = {}
    for name in REASONS:
        close = name == "close"
        with_it = [a for a in answers if any(kind_of(r) == name for r in a.reasons)]
        details = Counter(r.partition(":")[2] for a in answers for r in a.reasons if kind_of(r) == name and ":" in r)
        found = sum("close" in p.reasons for p in pairs) if close else len(with_it)
        tasks = sum(any(kind_of(r) == name for r in p.reasons) for p in planned)
        shown = sorted(with_it, key=lambda a: -max(abs(v) for r, v in a.reasons.items() if kind_of(r) == name))[:_SHOWN]
        examples = [{"prompt": a.prompt.text or a.prompt.last_user_text, "text": a.candidate.text} for a in shown]
        table[name] = {"of": "pairs" if close else "answers", "found": found, "tasks": tasks, "kinds": dict(details), "examples": examples}
    return table
