"""What decides whether a round is good: answers to held-out prompts, measured by something else than the judge that is learnt from."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, RunError
from keel.core.hashing import stable_hash
from keel.data.dataset import Dataset
from keel.evaluate.statistics import Interval, mean_interval, paired_difference, win_rate
from keel.feedback.rows import named, task_row
from keel.feedback.store import read as read_comparisons
from keel.judges.ask import Judge, check_images
from keel.judges.build import read_judges
from keel.judges.gate import admit
from keel.judges.panel import PanelJudge
from keel.rewards.sources.constitution import ConstitutionReward
from keel.rewards.sources.judge import JudgeReward
from keel.rewards.sources.model import ModelReward
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.runs.logs import read as read_rows
from keel.types import Candidate, Prompt, Task
from keel.verbs.campaign.recipe import GoldConfig, LabelRecipe
from keel.verbs.improve.recipe import HeldOutConfig, ImproveRecipe
from keel.verbs.shared.judges import check_seen_by, judge_named

log = logging.getLogger("keel")
EMPTY = "[no answer]"  # what people see of one without text


@dataclass(frozen=True, slots=True)
class Answers:
    """Held-out answers of one model. By prompt and sample: texts (None: sampling failed), tokens, scores of the measure (None: it failed),
    and the share that the judge which is learnt from gives them over the starting model's answer of the same number."""

    texts: Mapping[str, Sequence[str | None]]
    tokens: Mapping[str, Sequence[int]]
    scores: Mapping[str, Sequence[float | None]]
    judged: Mapping[str, Sequence[float | None]]
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])  # calls of judges, as ``Asked.counts``

    def rows(self, prompts: Mapping[str, Prompt]) -> list[dict[str, Any]]:
        head: list[dict[str, Any]] = [{"asked": dict(self.asked)}] if self.asked else []
        return head + [
            {
                "prompt_id": i,
                "prompt": prompts[i].last_user_text,
                "texts": list(texts),
                "tokens": list(self.tokens[i]),
                "scores": list(self.scores.get(i, ())),
                "judged": list(self.judged.get(i, ())),
            }
            for i, texts in self.texts.items()
        ]

    @classmethod
    def read(cls, path: Path) -> Answers:
        whole = read_rows(path)
        rows = [r for r in whole if "prompt_id" in r]
        asked = next((r["asked"] for r in whole if "asked" in r), {})
        texts, tokens, scores, judged = ({r["prompt_id"]: r[k] for r in rows} for k in ("texts", "tokens", "scores", "judged"))
        return cls(texts, tokens, scores, judged, asked)

    def length(self, config: HeldOutConfig) -> Interval:
        """Tokens an answer."""
        return mean_interval({i: [float(n) for n in t] for i, t in self.tokens.items()}, draws=config.draws, level=config.level)

    def score(self, config: HeldOutConfig) -> Interval | None:
        """The mean of the measure; None where it only compares."""
        known = _known(self.scores)
        return mean_interval(known, draws=config.draws, level=config.level) if known else None

    def judge_share(self, config: HeldOutConfig) -> Interval | None:
        """The share of comparisons with the starting model that the judge gives them."""
        known = {i: math.fsum(v) / len(v) for i, v in _known(self.judged).items()}
        return win_rate(known, level=config.level) if known else None

    def lost(self) -> int:
        """Answers without a measure."""
        return sum(s is None for of_prompt in self.scores.values() for s in of_prompt)


def _known(values: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    return {i: known for i, v in values.items() if (known := [x for x in v if x is not None])}


def check_measured(found: Answers, config: HeldOutConfig) -> None:
    """Raises RunError where more than ``max_lost`` of the answers have no measure."""
    answers = sum(len(v) for v in found.scores.values())
    if not answers or found.lost() > config.max_lost * answers:
        raise RunError(
            f"{found.lost()} of {answers} held-out answers have no measure, more than held_out.max_lost ({config.max_lost:g})",
            "mend the measure (the log says why it fails) and start the same command again",
        )


def change(now: Answers, good: Answers, config: HeldOutConfig) -> Interval:
    """How far the measure moved against the last good round, prompt by prompt, with an interval over prompts.

    Raises RunError where too many answers have no measure: nothing is accepted unmeasured."""
    check_measured(now, config)
    check_measured(good, config)
    before, after = _known(good.scores), _known(now.scores)
    if not before.keys() & after.keys():
        raise RunError("no held-out prompt has a measure in this round and in the last good one", "mend the measure, start again")
    return paired_difference(before, after, level=config.level)


def _place(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _voices(judge: Judge) -> set[str]:
    """Identities of a judge and, of a panel, of all its members."""
    members = judge.members if isinstance(judge, PanelJudge) else ()
    return {judge.identity}.union(*map(_voices, members))


def check_independent(recipe: ImproveRecipe, judge: Judge) -> tuple[Judge | None, list[dict[str, Any]]]:
    """The judge that measures, if one does, and what the manifest is told of it.

    Raises ConfigError where the measure is the judge that is learnt from, under whatever name: alone, as a reward, as a constitution's
    judge, as a reward model, as a member of a panel on either side."""
    trained_on, learnt = {_place(p) for _, p in read_judges(recipe.judge.judges).models(recipe.judge.judge)}, _voices(judge)
    fix = "measure by other rewards, another judge or people"

    def same(other: Judge) -> str:
        """How far ``other`` is the judge that is learnt from; "" = it is another one."""
        if other.identity == judge.identity:
            return "is the very judge that the model learns from"
        return "shares a voice with the judge that the model learns from" if _voices(other) & learnt else ""

    for config in recipe.held_out.rewards:
        if (
            isinstance(config, JudgeReward | ConstitutionReward)
            and config.judge
            and (why := same(judge_named(config.judges, config.judge)))
        ):
            raise ConfigError(f"held_out.rewards: '{config.name}' {why} ({judge.name})", fix)
        if isinstance(config, ModelReward) and trained_on & {_place(p) for p in (config.path, *config.ensemble.members)}:
            raise ConfigError(f"held_out.rewards: '{config.name}' is the reward model that the model learns from as a judge", fix)
    if (use := recipe.held_out.judge) is None:
        return None, []
    other = judge_named(use.judges, use.judge)
    if why := same(other):
        raise ConfigError(f"held_out.judge: {other.name} {why} ({judge.name})", fix)
    if other.family and other.family == judge.family:
        log.warning("held_out.judge %s and the judge %s are of one family (%s): they may err alike", other.name, judge.name, judge.family)
    return other, [admit(other, use.report, use.override, "a scorer")]


def check_sides(recipe: ImproveRecipe, sides: Sequence[Dataset], judge: Judge, measuring: Judge | None) -> None:
    """Raises DataError, before anything is sampled, where prompts hold images that a judge which is asked about them does not see."""
    held_out = sides[1].prompts()
    check_images(judge, ((p, ()) for side in sides for p in side.prompts()))
    if measuring is not None:
        check_images(measuring, ((p, ()) for p in held_out))
    check_seen_by(recipe.held_out.rewards, held_out)


def ask_people(
    recipe: ImproveRecipe, prompts: Mapping[str, Prompt], now: Answers, good: Answers, folder: Path, number: int
) -> Interval | None:
    """How far people prefer this round to the last good one: share of comparisons won, less a half; None when it was interrupted.

    Both sides' answers of the same number are compared, in an order by hash that people cannot know; the same text counts half."""
    use = recipe.held_out.people
    assert use is not None, "called where people measure"
    won: dict[str, list[float]] = {}
    tasks: dict[str, Task] = {}
    turned: dict[str, tuple[str, bool]] = {}
    for i, texts in now.texts.items():
        for k, (new, old) in enumerate(zip(texts, good.texts.get(i, ()))):
            if new is None or old is None:
                continue
            if new.strip() == old.strip():
                won.setdefault(i, []).append(0.5)
                continue
            pair = (Candidate(f"{k}-new", new.strip() or EMPTY), Candidate(f"{k}-old", old.strip() or EMPTY))
            turn = stable_hash("people", recipe.seed, number, i, k) % 2 == 1
            first, second = (Candidate(f"{k}-{s}", c.text) for s, c in zip("ab", pair[::-1] if turn else pair))
            task = named(Task("", prompts[i], (first, second), "pairwise", "held-out-v1", source_id=prompts[i].source_id))
            tasks[task.task_id] = task
            turned[f"{i} {k}"] = (i, turn)
    folder.mkdir(parents=True, exist_ok=True)
    if tasks:
        from keel.verbs.campaign.run import COMPARISONS, UNWANTED, run_labels  # people need the database, which is an extra

        write_atomic(folder / "tasks.jsonl", b"".join(json_line(task_row(t)) for t in tasks.values()))
        given = {"people": use.people, "per_item": use.per_item, "app": use.app, "seed": recipe.seed, "repeat_share": 0.0}
        if use.port:
            given["port"] = use.port
        asked = LabelRecipe(tasks=str(folder / "tasks.jsonl"), gold=GoldConfig(), campaign=f"held-out-{number}", **given)
        if run_labels(asked, folder / "people").get("interrupted"):
            return None
        for c in read_comparisons(folder / "people" / COMPARISONS):
            i, turn = turned[f"{c.prompt.prompt_id} {c.candidates[0].candidate_id.partition('-')[0]}"]
            share = {"first": 1.0, "second": 0.0, "tie": 0.5}[c.outcome]
            won.setdefault(i, []).append(1.0 - share if turn else share)
        bad = Counter(r["prompt_id"] for r in read_rows(folder / "people" / UNWANTED))
        for i, answers in bad.items():  # both called bad: two answers a vote, and neither is ahead
            won.setdefault(i, []).extend([0.5] * (answers // 2))
    if not won:
        raise RunError("no held-out prompt has an answer of both rounds: people have nothing to compare")
    found = win_rate({i: math.fsum(v) / len(v) for i, v in won.items()}, level=recipe.held_out.level)
    return Interval(found.mean - 0.5, found.low - 0.5, found.high - 0.5, found.n)
