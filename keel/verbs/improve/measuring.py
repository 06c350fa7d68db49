"""Held-out answers of the model after a round, with all that is measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from keel.judges.ask import Judge
from keel.rewards.composition.rewards import apply_rewards
from keel.types import Candidate, Group
from keel.verbs.improve.course import HELD_OUT, JUDGEMENTS, Course, write_rows
from keel.verbs.improve.held_out import Answers, check_measured
from keel.verbs.improve.judging import Asked, Match, keep, together
from keel.verbs.improve.rounds import asked_of
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled_eval import measured_answers


def held_out_answers(course: Course, number: int) -> Answers:
    """Answers of the model after a round to the held-out prompts, with the measure's scores and the judge's share over the start's."""
    path = course.folder(number) / HELD_OUT
    if not path.is_file():
        sampler, renderer = course.model(number)
        groups = measured_answers(sampler, course.held_out, course.params(renderer), course.recipe.held_out.sampling)
        start = Answers.read(course.folder(0) / HELD_OUT) if number else None
        found = _measured(course, number, groups, start)
        if course.recipe.held_out.by != "people":
            check_measured(found, course.recipe.held_out)  # before it is kept: started again, it is measured again
        write_rows(path, found.rows({i: p for i, (p, _) in course.held_out.items()}))
    return Answers.read(path)


def _measured(course: Course, number: int, groups: Sequence[Group], start: Answers | None) -> Answers:
    recipe = course.recipe
    texts = {g.prompt.prompt_id: [r.text if bool(v) else None for r, v in zip(g.rollouts, g.valid_G.tolist(), strict=True)] for g in groups}
    tokens = {g.prompt.prompt_id: [len(r) for r in g.rollouts] for g in groups}
    judged, heard = _against_start(course, course.judge, texts, start, course.folder(number) / f"held_out_{JUDGEMENTS}", number)
    asked = [heard]
    scores: dict[str, list[float | None]] = {}
    if recipe.held_out.by == "rewards":
        sampler, renderer = course.model(number)
        given = rewards_of(recipe.held_out.rewards, recipe, sampler.model, renderer)
        for g in apply_rewards(groups, given):
            scores[g.prompt.prompt_id] = [float(x) if bool(v) else None for x, v in zip(g.rewards_G, g.valid_G.tolist(), strict=True)]
    elif recipe.held_out.by == "judge":
        assert course.measuring is not None, "a judge measures"
        scores, heard = _against_start(course, course.measuring, texts, start, course.folder(number) / f"measured_{JUDGEMENTS}", number)
        asked.append(heard)
    elif recipe.held_out.by == "":
        scores = judged
    return Answers(texts, tokens, scores, judged, together([a.counts() for a in asked if a is not None]))


def _against_start(
    course: Course, judge: Judge, texts: Mapping[str, Sequence[str | None]], start: Answers | None, path: Path, number: int
) -> tuple[dict[str, list[float | None]], Asked | None]:
    """By prompt and sample the share that ``judge`` gives over the starting model's answer of the same number; 0.5 of the start itself,
    about which nobody is asked."""
    if start is None:
        return {i: [None if t is None else 0.5 for t in of_prompt] for i, of_prompt in texts.items()}, None
    matches: list[Match] = []
    places: list[tuple[str, int]] = []
    found: dict[str, list[float | None]] = {i: [None] * len(of_prompt) for i, of_prompt in texts.items()}
    for i, of_prompt in texts.items():
        for k, (now, before) in enumerate(zip(of_prompt, start.texts[i], strict=True)):
            if now is not None and before is not None:
                sides = Candidate(f"{number}-{k}", now), Candidate(f"0-{k}", before)
                matches.append(Match(course.held_out[i][0], *sides))
                places.append((i, k))
    asked = asked_of(judge, matches, f"held-out answers of round {number}")
    for (i, k), share in zip(places, asked.shares, strict=True):
        found[i][k] = share
    keep(path, course.recipe.store, course.recipe.campaign, [asked])
    return found, asked
