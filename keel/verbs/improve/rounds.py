"""One round, file by file. Each file is written whole or not at all, so a round that was cut off goes on behind the last one that is there,
and what it does hangs on seed, round and files alone.

``answers.jsonl`` -> ``judgements.jsonl``, ``judged.jsonl`` -> ``lessons.jsonl``, ``train.jsonl`` -> ``train/`` -> ``held_out.jsonl`` ->
``round.json``.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from keel.core.hashing import stable_hash
from keel.data.config import DataConfig
from keel.feedback.store import pair_row
from keel.feedback.texts import candidate_from, candidate_row, message_row, prompt_row
from keel.judges.ask import Judge
from keel.judges.orders import calls_of
from keel.runs.logs import read as read_rows
from keel.runs.memory import give_back_memory
from keel.types import Candidate, Pair
from keel.verbs.improve import choose
from keel.verbs.improve.choose import Judged, Lesson
from keel.verbs.improve.course import ANSWERS, JUDGED, JUDGEMENTS, LESSONS, TRAIN, Course, write_rows
from keel.verbs.improve.judging import Asked, Match, ask, keep, questions, round_robin, scored
from keel.verbs.prefer.build import build as build_prefer
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.sft.build import build as build_sft
from keel.verbs.sft.recipe import SFTRecipe
from keel.verbs.shared.answers import sample_answers, sampled_candidates
from keel.verbs.shared.parts import run_parts

log = logging.getLogger("keel")


def start_answers(course: Course) -> dict[str, Candidate]:
    """The starting model's answer to each training prompt, by which success is measured in all rounds."""
    path = course.folder(0) / ANSWERS
    if not path.is_file():
        found, _ = _sampled(course, 0, list(course.train), ((course.recipe.sampling.temperature, 1),), "start")
        write_rows(path, [{"prompt_id": i, "answers": [candidate_row(c) for c in answers]} for i, answers in found.items()])
    return {r["prompt_id"]: candidate_from(r["answers"][0], "answers.0") for r in read_rows(path) if r["answers"]}


def answers_of(course: Course, number: int, ids: Sequence[str], at: int) -> tuple[dict[str, list[Candidate]], int, int]:
    """Round ``number``'s answers, drawn from the model after round ``at``, by prompt; how many were drawn hotter, and how many are left out
    (empty, failed, or the same text again)."""
    recipe, path = course.recipe, course.folder(number) / ANSWERS
    hot = choose.explored(recipe.samples, recipe.explore.share)
    if not path.is_file():
        wanted = [(recipe.sampling.temperature, recipe.samples - hot)]
        wanted += [(recipe.explore.temperature, hot)] if hot else []
        found, left = _sampled(course, at, ids, wanted, f"round {number}")
        write_rows(
            path, [{"prompt_id": i, "answers": [candidate_row(c) for c in found.get(i, [])], "left_out": left.get(i, {})} for i in ids]
        )
    rows = read_rows(path)
    left_out = sum(sum(r["left_out"].values()) for r in rows)
    return {r["prompt_id"]: [candidate_from(c, "answers") for c in r["answers"]] for r in rows}, hot * len(ids), left_out


def _sampled(
    course: Course, at: int, ids: Sequence[str], wanted: Sequence[tuple[float, int]], what: str
) -> tuple[dict[str, list[Candidate]], dict[str, dict[str, int]]]:
    """Different answers by prompt, and by prompt why others are left out."""
    sampler, renderer = course.model(at)
    seed = stable_hash("improve", course.recipe.seed, what) >> 1
    log.info("%s: %d answers to each of %d prompts", what, sum(n for _, n in wanted), len(ids))
    drawn = sample_answers(sampler, {i: course.train[i] for i in ids}, course.params(renderer), wanted, seed)
    found: dict[str, list[Candidate]] = {}
    left: dict[str, dict[str, int]] = {}
    for i in ids:
        whole = [(t, r) for t, r in drawn.get(i, ()) if r.finish_reason != "error"]
        texts: set[str] = set()
        why = {"sampling failed": len(drawn.get(i, ())) - len(whole)}
        for candidate in sampled_candidates(i, whole, {"source": "policy", "round": what}):
            reason = "empty" if not candidate.text and what != "start" else "said before" if candidate.text in texts else ""
            if reason:
                why[reason] = why.get(reason, 0) + 1
            else:
                texts.add(candidate.text)
                found.setdefault(i, []).append(candidate)
        left[i] = {k: n for k, n in why.items() if n}
    return found, left


def judged_answers(
    course: Course, number: int, answers: Mapping[str, Sequence[Candidate]], start: Mapping[str, Candidate]
) -> tuple[dict[str, list[Judged]], dict[str, Any]]:
    """The round's answers with their scores, and what asking took."""
    path = course.folder(number) / JUDGED
    prompts = {i: course.train[i][0] for i in answers}
    if not path.is_file():
        matches = [m for i, found in answers.items() for m in round_robin(prompts[i], found, start.get(i))]
        asked = asked_of(course.judge, matches, f"round {number}")
        asked.check(f"round {number}")  # before anything is kept: started again, it is asked again
        shares: defaultdict[str, dict[tuple[str, str], float | None]] = defaultdict(dict)
        for m, share in zip(asked.matches, asked.shares, strict=True):
            shares[m.prompt.prompt_id][m.first.candidate_id, m.second.candidate_id] = share
        keep(course.folder(number) / JUDGEMENTS, course.recipe.store, course.recipe.campaign, [asked])
        rows: list[dict[str, Any]] = [{"counts": asked.counts()}]
        for i, found in answers.items():
            judged = scored(prompts[i], found, start.get(i), shares[i])
            rows.append({"prompt_id": i, "judged": [[j.score, j.beats] for j in judged]})
        write_rows(path, rows)
    head, *rows = read_rows(path)
    said = {r["prompt_id"]: [Judged(c, *pair) for c, pair in zip(answers[r["prompt_id"]], r["judged"], strict=True)] for r in rows}
    return said, head["counts"]


def asked_of(judge: Judge, matches: Sequence[Match], what: str) -> Asked:
    """Ask, after it was said how many calls it takes and what they cost."""
    calls = [c for q in questions(matches) for c in calls_of(q)]
    price = judge.price(calls)
    told = "unknown" if price is None else f"at most {price:.4g}"
    log.info("%s: %d calls of judge %s, price %s", what, len(calls), judge.name, told)
    return ask(judge, matches)


def lessons_of(
    course: Course, number: int, judged: Mapping[str, Sequence[Judged]], pool: Sequence[Lesson]
) -> tuple[int, int, dict[str, int]]:
    """Write what the round learns; (new lessons, replayed ones, why prompts gave none)."""
    recipe, path = course.recipe, course.folder(number)
    prompts = {i: course.train[i][0] for i in judged}
    new, none = choose.lessons(prompts, judged, recipe.train.by, recipe.select, number)
    old = choose.replayed(pool, new, recipe.replay.share, recipe.seed, number)
    write_rows(path / LESSONS, [_lesson_row(x) for x in new])
    write_rows(path / TRAIN, [_train_row(x) for x in (*new, *old)])
    return len(new), len(old), none


def lessons_before(course: Course, numbers: Sequence[int]) -> list[Lesson]:
    """The lessons of earlier rounds."""
    return [
        Lesson(
            course.train[r["prompt_id"]][0],
            candidate_from(r["chosen"], "chosen"),
            None if r["rejected"] is None else candidate_from(r["rejected"], "rejected"),
            r["worth"],
            number,
        )
        for number in numbers
        for r in read_rows(course.folder(number) / LESSONS)
    ]


def _lesson_row(x: Lesson) -> dict[str, Any]:
    rejected = None if x.rejected is None else candidate_row(x.rejected)
    return {"prompt_id": x.prompt.prompt_id, "chosen": candidate_row(x.chosen), "rejected": rejected, "worth": x.worth}


def _train_row(x: Lesson) -> dict[str, Any]:
    name = f"{x.round}:{x.prompt.prompt_id}"
    if x.rejected is None:
        return {**prompt_row(x.prompt), "completion": [message_row(m) for m in x.chosen.messages]}
    return pair_row(Pair(name, x.prompt, x.chosen.messages, x.rejected.messages))


def train(course: Course, number: int, at: int) -> dict[str, Any]:
    """Train the model after round ``at`` on the round's lessons; leaves ``train/final``. Returns the training's summary."""
    recipe, t, folder = course.recipe, course.recipe.train, course.folder(number)
    course.release()
    shared: dict[str, Any] = {name: getattr(recipe, name) for name in ("model_options", "render", "settings")}
    shared |= {"model": course.weights(at), "data": DataConfig(path=str(folder / TRAIN)), "held_out": 0.0}
    shared |= {"lora": t.lora, "optim": t.optim, "batch": t.batch, "loop": t.loop}
    shared["seed"] = stable_hash("improve", recipe.seed, "train", number) >> 33
    if t.by == "sft":
        found = run_parts("sft", build_sft, SFTRecipe(**shared), folder / "train", str(course.path))
    else:
        found = run_parts("prefer", build_prefer, PreferRecipe(**shared, objective=t.objective), folder / "train", str(course.path))
    give_back_memory()
    return found


def mean_success(judged: Mapping[str, Sequence[Judged]]) -> tuple[dict[str, float], float | None]:
    """Success by prompt, and its mean over prompts."""
    known = {i: s for i, answers in judged.items() if (s := choose.success(answers)) is not None}
    return known, math.fsum(known.values()) / len(known) if known else None
