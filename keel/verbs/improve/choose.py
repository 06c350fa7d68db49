"""What a round asks and what it learns: pure functions of what was judged before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from keel.core.hashing import permutation, stable_hash
from keel.types import Candidate, Prompt
from keel.verbs.improve.recipe import DifficultyConfig, SelectConfig


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with what the judge says of it. Shares are of comparisons won, ties half, in [0, 1]; None where too few had a verdict."""

    candidate: Candidate
    score: float | None  # against the other answers to its prompt and the starting model's
    beats: float | None  # against the starting model's answer alone


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one prompt teaches: an answer to imitate, or (with ``rejected``) a pair."""

    prompt: Prompt
    chosen: Candidate
    rejected: Candidate | None
    worth: float  # the score of the answer, or by how much the pair's scores differ
    round: int


def explored(samples: int, share: float) -> int:
    """How many of ``samples`` answers are drawn hotter: the share, rounded up, and never all of them."""
    return min(math.ceil(samples * share - 1e-9), samples - 1)


def success(answers: Sequence[Judged]) -> float | None:
    """Share of the comparisons with the starting model's answer that the answers to one prompt won; None without any verdict."""
    known = [a.beats for a in answers if a.beats is not None]
    return math.fsum(known) / len(known) if known else None


def prompts_of_round(
    ids: Sequence[str], successes: Mapping[str, float], n: int, harder: float, seed: int, number: int
) -> tuple[list[str], int]:
    """The ``n`` prompts that round ``number`` asks (0, or more than there are: all), in the order of ``ids``, and how many of them are of
    the harder half.

    Prompts are ordered by measured success, unmeasured ones at 0.5, equal ones by hash; the lower half (rounded down) are the harder ones.
    round(harder * n) are drawn from it by hash, the rest from the easier half; where a half has too few the other fills up.
    """
    if not 0 < n < len(ids):
        return list(ids), len(ids) // 2
    shuffled = [ids[i] for i in permutation(len(ids), "difficulty", seed, number)]
    ordered = sorted(shuffled, key=lambda i: successes.get(i, 0.5))  # stable: equal ones stay shuffled
    half = len(ids) // 2
    hard, easy = set(ordered[:half]), set(ordered[half:])
    wanted = min(math.floor(harder * n + 0.5), len(hard))
    wanted = max(wanted, n - len(easy))
    taken = [i for i in shuffled if i in hard][:wanted] + [i for i in shuffled if i in easy][: n - wanted]
    return [i for i in ids if i in set(taken)], wanted


def harder_after(harder: float, mean_success: float | None, config: DifficultyConfig) -> float:
    """The share of harder prompts in the next round: a step more where the model succeeds."""
    if mean_success is None or mean_success < config.above:
        return harder
    return min(config.most, round(harder + config.step, 9))


def lessons(
    prompts: Mapping[str, Prompt], judged: Mapping[str, Sequence[Judged]], by: Literal["sft", "prefer"], config: SelectConfig, number: int
) -> tuple[list[Lesson], dict[str, int]]:
    """At most one lesson a prompt, in the order of ``judged``, and why the other prompts gave none.

    ``sft``: the answer with the highest score, where that is at least ``config.least``. ``prefer``: the highest against the lowest, where
    they differ by ``config.margin``. An answer that was cut off is no best one unless ``config.cut``. Of equal scores the first in the
    order of samples counts, as best and as worst.
    """
    found: list[Lesson] = []
    none: dict[str, int] = {}
    for name, answers in judged.items():
        scored = [(a.candidate, a.score) for a in answers if a.score is not None]
        whole = [(c, s) for c, s in scored if config.cut or c.origin.get("finish_reason") != "length"]
        why = ""
        if not scored:
            why = "no answer has a score"
        elif not whole:
            why = "every answer was cut off at sampling.max_tokens"
        else:
            best, high = max(whole, key=lambda x: x[1])
            worst, low = min(scored, key=lambda x: x[1])
            if by == "sft" and high >= config.least - 1e-9:
                found.append(Lesson(prompts[name], best, None, high, number))
            elif by == "prefer" and high - low >= config.margin - 1e-9:
                found.append(Lesson(prompts[name], best, worst, high - low, number))
            else:
                why = "the best answer scores below select.least" if by == "sft" else "scores differ by less than select.margin"
        if why:
            none[why] = none.get(why, 0) + 1
    return found, none


def replayed(pool: Sequence[Lesson], new: Sequence[Lesson], share: float, seed: int, number: int) -> list[Lesson]:
    """Lessons of earlier rounds that are learnt again: so many that they are ``share`` of all, as far as there are. Of each prompt the
    worthiest counts; those of the highest worth are taken, equal ones by hash. What stands in ``new`` already is not taken twice."""
    wanted = math.floor(share / (1.0 - share) * len(new) + 0.5)
    known = {_content(x) for x in new}
    best: dict[str, Lesson] = {}
    for lesson in pool:
        before = best.get(lesson.prompt.prompt_id)
        if _content(lesson) not in known and (before is None or lesson.worth > before.worth):
            best[lesson.prompt.prompt_id] = lesson
    order = sorted(best.values(), key=lambda x: (-x.worth, stable_hash("replay", seed, number, x.prompt.prompt_id)))
    return order[:wanted]


def _content(lesson: Lesson) -> tuple[str, str, str]:
    rejected = lesson.rejected.text if lesson.rejected is not None else ""
    return lesson.prompt.prompt_id, lesson.chosen.text, rejected
