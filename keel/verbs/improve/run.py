"""`keel improve`: rounds of generate, judge, train, measure; a round that is worse on held-out prompts is refused, and the run ends there.

Started again after a kill at any place it takes the same course: what is done stands in the files of its round.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DataError
from keel.evaluate.statistics import Interval
from keel.judges.gate import admit
from keel.runs.durable import publish_folder
from keel.verbs.improve import choose, rounds
from keel.verbs.improve.course import Course, read_round, write_round
from keel.verbs.improve.decide import State, after, name_of, outcome, result
from keel.verbs.improve.held_out import Answers, ask_people, change, check_independent, check_sides
from keel.verbs.improve.measuring import held_out_answers
from keel.verbs.improve.plan import plan_improve, plan_lines
from keel.verbs.improve.recipe import ImproveRecipe
from keel.verbs.improve.sides import sides_of
from keel.verbs.shared.account import Account
from keel.verbs.shared.judges import judge_named, record_judges
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.session import Session, load, open_session, record, record_sampling

log = logging.getLogger("keel")


def run_improve(recipe: ImproveRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Leaves ``rounds/NN/`` and ``final/``, the weights of the best round that was not refused. Returns the summary: every round's measures
    and verdict, which round is kept, and why it ended. Raises UserError before anything is sampled where nothing independent measures."""
    train, held_out = sides = sides_of(recipe)
    judge = judge_named(recipe.judge.judges, recipe.judge.judge)
    admitted = admit(judge, recipe.judge.report, recipe.judge.override, "a labeller")
    measuring, others = check_independent(recipe, judge)
    check_sides(recipe, sides, judge, measuring)
    for line in plan_lines(plan_improve(recipe, sides)):
        log.info("%s", line)
    read = {train.source: train.fingerprint, held_out.source: held_out.fingerprint}
    with open_session("improve", recipe, path, read, parent) as session:
        if (done := session.finished()) is not None:
            return done
        record_judges(session.run, [], [admitted, *others])
        account = Account(path, recipe.settings.max_refused, train=train, held_out=held_out)
        course = _course(session, recipe, path, account, judge, measuring)
        found = _Run(session, course).go()
        if found is None:
            return {"run_dir": str(path), "verb": "improve", "interrupted": True}
        return session.finish({**found, "data": account.summary(), "override": bool(admitted["override"])})


def _course(session: Session, recipe: ImproveRecipe, path: Path, account: Account, judge: Any, measuring: Any) -> Course:
    """The starting model is loaded, its weights are pinned, prompts are encoded once: all rounds have its tokenizer and template."""
    loaded, renderer = load(recipe)
    record(session, loaded, renderer)
    sides = {
        name: encode(account.sides[name].prompts(), renderer, account, name, recipe.sampling.max_tokens) for name in ("train", "held_out")
    }
    if recipe.difficulty.prompts >= len(sides["train"]):
        n = len(sides["train"])
        raise ConfigError(
            f"difficulty.prompts is {recipe.difficulty.prompts} of {n} prompts: nothing would be chosen", "set it lower, or 0"
        )
    course = Course(recipe, path, judge, measuring, sides["train"], sides["held_out"], loaded.model.media)
    del loaded, renderer
    record_sampling(session, course.model(0)[0])
    return course


class _Run:
    """The rounds one after another; everything it knows is read from the files of rounds that are done."""

    def __init__(self, session: Session, course: Course) -> None:
        self.session, self.course, self.recipe = session, course, course.recipe
        self.state = State()
        self.rows: list[dict[str, Any]] = []
        self.successes: dict[str, float] = {}
        self.harder = self.recipe.difficulty.harder

    def go(self) -> dict[str, Any] | None:
        """All rounds; None when it was interrupted."""
        self._take_up()
        bus = self.session.bus
        self.session.run.cut_metrics(self.state.round if self.rows else -1)
        bus.emit("run_started", self.state.round, total_steps=self.recipe.rounds)
        if self.recipe.unguarded:
            text = f"nothing but judge {self.course.judge.name} measures what it teaches: what it is wrong about rises unseen"
            bus.emit("warning", self.state.round, text)
        if not self.recipe.gate:
            bus.emit("warning", self.state.round, "gate=false: no round is refused, whatever is measured")
        if not self.rows:
            self._add(self._start())
        while not self.state.stopped:
            row = self._round()
            if row is None:
                return None
            self._add(row)
        number = result(self.state, self.recipe.gate)
        bus.emit("verdict", self.state.round, f"{self.state.stopped}; final/ is {name_of(number)}")
        self._save(number)
        return self._summary(number)

    def _take_up(self) -> None:
        """What rounds that are done say."""
        while (row := read_round(self.course, len(self.rows))) is not None:
            self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.successes |= row["successes"]
        self.harder = row["harder_next"]
        self.state = State(**row["state"])
        self._prune()

    def _add(self, row: dict[str, Any]) -> None:
        """A round is done: its metrics, then its last file, so that a kill in between tells nothing twice (``cut_metrics``)."""
        self.session.bus.emit("step", row["round"], metrics=_metrics(row))
        if row["verdict"] == "worse":
            self.session.bus.emit("verdict", row["round"], _told(row))
        log.info(_told(row))
        write_round(self.course, row["round"], row)
        self._take(row)

    def _start(self) -> dict[str, Any]:
        """Row 0: the starting model, measured."""
        rounds.start_answers(self.course)
        answers = held_out_answers(self.course, 0)
        measured = self._measures(answers, None) | {"judge": None}  # against itself
        return {"round": 0, "verdict": "start", **measured, "successes": {}, "harder_next": self.harder, "state": _row(State())}

    def _measures(self, answers: Answers, moved: Interval | None) -> dict[str, Any]:
        config = self.recipe.held_out
        score, share = answers.score(config), answers.judge_share(config)
        return {
            "score": None if score is None else score.to_json(),
            "change": None if moved is None else moved.to_json(),
            "judge": None if share is None else share.to_json(),
            "tokens": answers.length(config).to_json(),
            "lost": answers.lost(),
            "held_out_asked": dict(answers.asked),
        }

    def _round(self) -> dict[str, Any] | None:
        """The next round; None when it was interrupted."""
        course, recipe, state = self.course, self.recipe, self.state
        number, d = state.round + 1, recipe.difficulty
        log.info("\n== round %d, from %s ==", number, name_of(state.at))
        ids, hard = choose.prompts_of_round(list(course.train), self.successes, d.prompts, self.harder, recipe.seed, number)
        answers, explored, left = rounds.answers_of(course, number, ids, state.at)
        judged, counts = rounds.judged_answers(course, number, answers, rounds.start_answers(course))
        successes, mean = rounds.mean_success(judged)
        pool = rounds.lessons_before(course, [r["round"] for r in self.rows if r["round"] and r["verdict"] != "worse"])
        new, old, none = rounds.lessons_of(course, number, judged, pool)
        asked = {
            "round": number,
            "from": state.at,
            "prompts": len(ids),
            "harder": self.harder if d.prompts else None,
            "harder_prompts": hard if d.prompts else None,
            "answers": sum(map(len, answers.values())),
            "explored": explored,
            "left_out": left,
            "success": mean,
            "lessons": new,
            "replayed": old,
            "no_lesson": none,
            **counts,
            "successes": successes,
            "harder_next": choose.harder_after(self.harder, mean, d) if d.prompts else self.harder,
        }
        if not new:
            return self._nothing_learnt(asked)
        if rounds.train(course, number, state.at).get("interrupted"):
            return None
        now, good = held_out_answers(course, number), held_out_answers(course, state.good)
        if recipe.held_out.by == "people":
            moved = ask_people(recipe, {i: p for i, (p, _) in course.held_out.items()}, now, good, course.folder(number), number)
            if moved is None:
                return None
        else:
            moved = change(now, good, recipe.held_out)
        then = after(state, moved, rounds=recipe.rounds, gate=recipe.gate, patience=recipe.patience)
        said = {"verdict": outcome(moved), "against": state.good, **self._measures(now, moved)}
        return asked | said | {"state": _row(then)}

    def _nothing_learnt(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A round whose answers teach nothing ends the run; in the first there is something wrong."""
        why = ", ".join(f"{n} prompts: {reason}" for reason, n in asked["no_lesson"].items())
        if asked["round"] == 1:
            raise DataError(f"round 1 has no lesson: {why}", "sample hotter, longer or more, or lower select.margin (select.least)")
        state = self.state
        then = replace(state, round=asked["round"], stopped=f"converged: round {asked['round']} has no lesson ({why})")
        empty = dict.fromkeys(("score", "change", "judge", "tokens", "lost", "held_out_asked"))
        return asked | empty | {"verdict": "no lesson", "against": state.good, "state": _row(then)}

    def _prune(self) -> None:
        """Weights of rounds that nothing will read again go, unless ``keep`` is all; checkpoints of trainings that are done always."""
        wanted = {self.state.good, self.state.best} | (set() if self.state.stopped and self.recipe.gate else {self.state.at})
        for number in range(1, self.state.round + 1):
            shutil.rmtree(self.course.folder(number) / "train" / "checkpoints", ignore_errors=True)
            if self.recipe.keep == "good" and number not in wanted:
                for name in ("final", "adapter"):
                    shutil.rmtree(self.course.folder(number) / "train" / name, ignore_errors=True)

    def _save(self, number: int) -> None:
        """``final/``: the weights of a round, or of the start."""

        def fill(folder: Path) -> None:
            if number:
                shutil.copytree(self.course.weights(number), folder, dirs_exist_ok=True)
            else:
                loaded, _ = load(self.recipe)
                loaded.model.save(folder, loaded.tokenizer, loaded.processor)

        self.course.release()
        publish_folder(self.course.path / "final", fill)

    def _summary(self, number: int) -> dict[str, Any]:
        told = [{k: v for k, v in row.items() if k not in ("successes", "state", "harder_next")} for row in self.rows]
        costs = [row["cost"] for row in self.rows if row["round"]]
        costs += [row["held_out_asked"]["cost"] for row in self.rows if row.get("held_out_asked")]
        return {
            "rounds": self.state.round,
            "kept": number,
            "kept_name": name_of(number),
            "stopped": self.state.stopped,
            "refused": [row["round"] for row in self.rows if row["verdict"] == "worse" and self.recipe.gate],
            "gate": self.recipe.gate,
            "judge": self.course.judge.name,
            "measured_by": self.recipe.held_out.by or "the judge that is learnt from",
            "unguarded": bool(self.recipe.unguarded),
            "score_start": self.rows[0]["score"],
            "score_kept": self.rows[number]["score"],
            "cost": None if any(c is None for c in costs) else sum(costs),
            "improvement": told,
        }


def _row(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in State.__slots__}


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """What of a round is a curve."""
    found: dict[str, float] = {}
    for key in ("score", "change", "judge", "tokens"):
        if row.get(key) is not None:
            found |= {f"improve/{key}{end}": row[key][name] for end, name in (("", "mean"), ("_low", "low"), ("_high", "high"))}
    return found | {f"improve/{k}": float(row[k]) for k in ("success", "harder", "lessons", "replayed") if row.get(k) is not None}


def _told(row: dict[str, Any]) -> str:
    """A round in one line."""

    def said(key: str, name: str) -> str:
        x = row[key]
        return "" if x is None else f", {name} {x['mean']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"

    measures = "".join(said(k, n) for k, n in (("score", "held-out score"), ("change", "change"), ("judge", "judge"), ("tokens", "tokens")))
    return f"round {row['round']}: {row['verdict']}{measures}"
