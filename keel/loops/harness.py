"""What all loops share: resume, step, evaluate, checkpoint, stop. A trainer supplies one step at a time and its whole state; everything
that happens is an event. Wall-clock time is measured here and decides nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from keel.core.errors import DivergedError
from keel.core.events import EventBus
from keel.loops.config import LoopConfig
from keel.loops.control import phase_at
from keel.loops.emergency import Emergency, in_short, never_recovered, place_to_go_back_to, refusal
from keel.runs.checkpoints import Checkpoint, Checkpoints
from keel.runs.directory import RunDir
from keel.runs.interrupt import Interrupts
from keel.runs.memory import peak_mb
from keel.watch.config import EarlyStopConfig, WatchConfig
from keel.watch.early_stop import EarlyStop, settled
from keel.watch.engine import Finding, Watch
from keel.watch.trends import Trends

TensorFiles = Mapping[str, Any]  # by stem: tensors by name, or what writes them (``runs.pieces.Written``)
FAILED = "eval/completions/failed_ratio"  # the share of held-out samples that could not be judged


class Trainer(Protocol):
    """A stage's training, one step at a time. Its state is complete: after ``load_state`` the next step is the one that would have been."""

    @property
    def total_steps(self) -> int: ...

    @property
    def may_run_away(self) -> bool:
        """It trains on what it makes itself: the starting weights are kept, so that there always is a place to go back to."""
        ...

    def step(self, step: int) -> Mapping[str, float]:
        """Do step ``step`` (0-based) and return its metrics; ``tokens`` among them is the number of tokens processed."""
        ...

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Metrics on held-out data, names starting with ``eval/``; writes samples as a side effect. No randomness of its own."""
        ...

    def test(self) -> Mapping[str, float]:
        """Metrics on data that chooses nothing, names starting with ``test/``; empty where there is none."""
        ...

    def adjust(self, lr_scale: float, kl_scale: float) -> Mapping[str, float]:
        """Scale the recipe's learning rates and the coefficient of the KL from the next step on. Returns what they are now, by metric name.
        The scales are not part of the state: the caller keeps them."""
        ...

    def drift(self, first: int, last: int) -> Mapping[str, float]:
        """How far the data of steps ``first`` to ``last`` is from all data (``watch.drift``)."""
        ...

    def state(self) -> tuple[TensorFiles, dict[str, Any]]: ...

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a loop ended. ``interrupted``: stopped by a signal or paused by a rule at ``step``, the run resumes from there."""

    step: int
    interrupted: bool
    stopped_early: bool
    last: Mapping[str, float]
    last_eval: Mapping[str, float]  # of the weights that are the result
    test: Mapping[str, float]
    wall_before: float  # seconds of training in earlier attempts, up to the checkpoint this one went on from
    paused: str = ""  # why it was left, where no signal asked for it: a rule's reason, or `loop.pause_at`
    never_recovered: str = ""  # after an emergency: in which way the run is not what it was


class Harness:
    """Runs a trainer inside a run directory until it is done, interrupted or stopped."""

    def __init__(
        self,
        trainer: Trainer,
        run: RunDir,
        checkpoints: Checkpoints,
        bus: EventBus,
        config: LoopConfig,
        watch: WatchConfig,
        checkpoint_every: int,
        default_best: EarlyStopConfig,
        counted: Callable[[], Mapping[str, float]] = dict,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """``counted``: metrics of each step beside the trainer's own; ``settings``: the recipe by key path, for rules that ask for it."""
        self.trainer, self.run, self.checkpoints, self.bus, self.config = trainer, run, checkpoints, bus, config
        self.checkpoint_every, self.counted = checkpoint_every, counted
        self.watch, self.trends = Watch(watch, self._tell, settings, self._say), Trends()
        self.limits, self.emergency = watch.emergency, Emergency()
        self.selection = EarlyStop(settled(config.best, default_best))
        self.good: int | None = None  # step of the last good checkpoint
        self.sound = True  # since the last checkpoint: no alarm, every metric finite
        self.last: Mapping[str, float] = {}
        self.last_eval: Mapping[str, float] = {}
        self.wall_before = 0.0
        self.tokens = 0.0  # processed since the beginning
        self.now = 0  # the step that is under way or was the last
        self.pausing = ""  # why a rule wants the run to be left
        self.alarms: dict[str, str] = {}  # rules that speak -> the event in which they began to

    def train(self) -> TrainResult:
        """Resume if there is something to resume from, step to the end, go back to the best weights if ``loop.best`` asks for them, and
        test. Raises DivergedError when a guard stops the run."""
        started = time.perf_counter()
        step = self._resume()
        stopped_early = self.selection.should_stop
        self.now = step
        self._pause_if_due(step)
        self.bus.emit("run_started", step, total_steps=self.trainer.total_steps)
        self.watch.begin()
        with Interrupts() as interrupts:
            if step == 0 and self.config.eval_at_start and not self.last_eval:
                self._evaluate(0)
            if step == 0 and self.good is None and self.trainer.may_run_away and self.limits.rollbacks:
                self._save(0, False, started)
            while step < self.trainer.total_steps and not (interrupts.requested or stopped_early or self.pausing):
                before = self.tokens
                self._tell_phase(step)
                trouble = self._step(step)
                step += 1
                done = step == self.trainer.total_steps
                improved = False
                if not trouble:
                    self._pause_if_due(step)
                if not trouble and (done or step == self.config.pause_at or self._evaluation_due(step, before)):
                    improved, trouble = self._evaluate(step)
                    stopped_early = self.selection.should_stop
                if trouble:
                    step, stopped_early = self._go_back(step, trouble, started), False
                    continue
                leaves = interrupts.requested or stopped_early or bool(self.pausing)
                if improved or done or leaves or step % self.checkpoint_every == 0:
                    self._save(step, improved, started)
        interrupted = (interrupts.requested or bool(self.pausing)) and step < self.trainer.total_steps and not stopped_early
        paused = self.pausing if interrupted and not interrupts.requested else ""
        if interrupted:
            self._tell_interrupted(step)
        return self._result(step, interrupted, stopped_early, paused)

    def _pause_if_due(self, step: int) -> None:
        if 0 < self.config.pause_at <= step < self.trainer.total_steps:
            self.pausing = self.pausing or f"loop.pause_at={self.config.pause_at}"

    def _tell_interrupted(self, step: int) -> None:
        again = "start the same command again to go on"
        if step == self.config.pause_at:
            again = "start it without loop.pause_at, or with a greater one, to go on"
        if self.pausing:
            self.bus.emit("paused", step, f"paused at step {step}: {self.pausing}. The run is saved; {again}", reason=self.pausing)
        else:
            self.bus.emit("interrupted", step, f"stopped at step {step}; {again}")

    def _result(self, step: int, interrupted: bool, stopped_early: bool, paused: str) -> TrainResult:
        """The end: go back to the best weights if that is asked for, test, say what was wrong."""
        best = self.selection.best
        if stopped_early:
            why = f"nothing better than {best.value:.4g} of step {best.step}" if best else "nothing was ever better"
            self.bus.emit("warning", step, f"stopped early at step {step}: {why}")
        lost = "" if interrupted else never_recovered(self.emergency, self.watch.critical, best.step if best else None)
        test = {} if interrupted else self._finish(step)
        if lost:
            self.bus.emit("warning", step, lost, level="critical", never_recovered=True)
        if not interrupted:
            for text in self.watch.unheard():
                self.bus.emit("warning", step, text)
        return TrainResult(step, interrupted, stopped_early, self.last, self.last_eval, test, self.wall_before, paused, lost)

    def _tell_phase(self, step: int) -> None:
        phase = phase_at(self.config.phases, step, self.trainer.total_steps)
        if phase is not None and phase.begins:
            self.bus.emit("phase", step + 1, f"phase {phase.number}, {phase.name}, begins with step {step + 1}", name=phase.name)

    def _finish(self, step: int) -> Mapping[str, float]:
        if self.config.best is not None:
            self.restore_best()
        test = self.trainer.test()
        if test:
            self.bus.emit("eval", step, metrics=test)
            self.watch.check(step, test)  # for what is told: there is nothing left to stop
        return test

    def _evaluation_due(self, step: int, tokens_before: float) -> bool:
        """After step ``step``, which began when ``tokens_before`` tokens had been processed."""
        every, tokens = self.config.eval_every, self.config.eval_tokens
        phase = phase_at(self.config.phases, step - 1, self.trainer.total_steps)
        every = every if phase is None or phase.eval_every is None else phase.eval_every
        return bool(every and step % every == 0) or bool(tokens and self.tokens // tokens > tokens_before // tokens)

    def restore_best(self) -> None:
        """Put the trainer back to the best evaluation's checkpoint. Without a finite evaluation the last weights stay.

        Raises RunError when that checkpoint is not there or not whole: other weights must not pass for the best ones.
        """
        best = self.selection.best
        if best is not None:
            checkpoint = self.checkpoints.load(best.step)
            self.trainer.load_state(checkpoint.tensors, checkpoint.state["trainer"])
            self.last_eval = checkpoint.state["last_eval"]
            self.bus.emit("checkpoint", best.step, f"the best evaluation was at step {best.step}: its weights are the result")

    def _resume(self) -> int:
        checkpoint = self.checkpoints.load_latest()
        if checkpoint is None:
            self.run.cut_metrics(-1)
            return 0
        self.run.cut_metrics(checkpoint.step)
        self._load(checkpoint)
        self.bus.emit("resumed", checkpoint.step, f"resumed from step {checkpoint.step}")
        return checkpoint.step

    def _load(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.trainer.load_state(checkpoint.tensors, state["trainer"])
        self.last, self.last_eval, self.wall_before = state["last"], state["last_eval"], state["wall_s"]
        self.selection.load_state(state["selection"])
        self.watch.load_state(state["watch"])
        self.trends.load_state(state["trends"])
        self.emergency = Emergency(**state["emergency"])
        self.alarms = dict(state.get("alarms", {}))
        self.trainer.adjust(self.emergency.lr_scale, self.emergency.kl_scale)
        self.good, self.tokens = state.get("good"), state["tokens"]
        best = self.selection.best
        self.checkpoints.rewind(checkpoint.step, {"best": None if best is None else best.step, "good": self.good})

    def _save(self, step: int, improved: bool, started: float) -> None:
        """Write a checkpoint. It is good when since the one before it there was no alarm (``Watch.alarmed``) and no metric of a step or an
        evaluation was infinite or NaN."""
        tensors, trainer_state = self.trainer.state()
        good, self.sound = self.sound, True
        self.good = step if good else self.good
        state = {
            "trainer": trainer_state,
            "last": dict(self.last),
            "last_eval": dict(self.last_eval),
            "selection": self.selection.state(),
            "watch": self.watch.state(),
            "trends": self.trends.state(),
            "emergency": self.emergency.state(),
            "alarms": dict(self.alarms),
            "good": self.good,
            "tokens": self.tokens,
            "wall_s": self.wall_before + time.perf_counter() - started,
        }
        self.checkpoints.save(step, tensors, state, {name for name, marked in (("good", good), ("best", improved)) if marked})
        self.bus.emit("checkpoint", step, best=improved, good=good)

    def _step(self, step: int) -> str:
        """One step. Returns why the run has to go back; empty when it goes on. Raises DivergedError when a rule stops it."""
        started, self.now = time.perf_counter(), step + 1
        try:
            metrics = dict(self.trainer.step(step))
        except DivergedError as error:
            return error.message
        seconds = time.perf_counter() - started
        tokens = metrics.pop("tokens", 0.0)
        self.tokens += tokens
        metrics |= self.trends.update(metrics)
        metrics.setdefault("time/train_s", seconds)  # a step that says nothing of it does nothing else
        metrics |= {"time/step_s": seconds, "tokens_per_s": tokens / seconds, "mem/peak_mb": peak_mb()}
        metrics |= self.counted()
        self.last = metrics
        self.bus.emit("step", step + 1, metrics=metrics)
        trouble = self._judged(step + 1, metrics)
        if not trouble:
            self._come_back(step + 1, not self.watch.alarmed and all(map(math.isfinite, metrics.values())))
        return trouble

    def _come_back(self, step: int, calm: bool) -> None:
        """After calm steps, what emergencies changed comes back step by step; the beginning and the end of it are told."""
        before, self.emergency = self.emergency, self.emergency.after_step(self.limits, calm)
        now = self.emergency
        if (now.lr_scale, now.kl_scale) == (before.lr_scale, before.kl_scale):
            return
        settings = self.trainer.adjust(now.lr_scale, now.kl_scale)
        told = {"settings": dict(settings), "lr_scale": now.lr_scale, "kl_scale": now.kl_scale}
        if now.quiet == self.limits.recover_after + 1:
            self.bus.emit("recovery", step, f"{now.quiet} calm steps: learning rates and the price of the KL begin to come back", **told)
        if not now.away:
            whole = now.lr_scale == 1.0 and now.kl_scale == 1.0
            how_far = "are back at the recipe's" if whole else "are as far back as they go: beyond it there was trouble before"
            self.bus.emit("recovery", step, f"learning rates and the price of the KL {how_far}", **told)

    def _judged(self, step: int, metrics: Mapping[str, float]) -> str:
        """What the rules say of a step or an evaluation: why the run has to go back, empty when it goes on. Raises DivergedError when a
        rule stops it."""
        verdict = self.watch.check(step, metrics)
        self.sound = self.sound and not self.watch.alarmed and all(map(math.isfinite, metrics.values()))
        if verdict.action == "stop":
            stands = "there is no good checkpoint" if self.good is None else f"the last good checkpoint is that of step {self.good}"
            self._stop(step, verdict.reason, stands)
        if verdict.changes:  # also beside a pause: what is saved then has them
            self._adjust(step, verdict.why_changed, verdict.changes)
        if verdict.action == "pause":
            self.pausing = verdict.reason
        return verdict.reason if verdict.action == "rollback" else ""

    def _adjust(self, step: int, reason: str, changes: Sequence[str]) -> None:
        """The run goes on where it is, with a smaller learning rate, a dearer KL or both."""
        self.emergency = self.emergency.adjusted(self.limits, changes)
        now = self.emergency
        settings = self.trainer.adjust(now.lr_scale, now.kl_scale)
        changed = ", ".join(f"{name} is now {value:.3g}" for name, value in settings.items())
        told = {"reason": reason, "changes": list(changes), "settings": dict(settings), "lr_scale": now.lr_scale, "kl_scale": now.kl_scale}
        self.bus.emit("adjusted", step, f"{reason}. {changed}", **told)

    def _stop(self, step: int, reason: str, stands: str) -> NoReturn:
        self.bus.emit("verdict", step, reason, action="stop")
        raise DivergedError(f"stopped at step {step}: {reason}", f"{stands}; events.jsonl has what happened")

    def _go_back(self, step: int, reason: str, started: float) -> int:
        """The emergency after step ``step``: back to a good checkpoint with smaller learning rates and a larger coefficient of the KL,
        which are part of the state from then on. Returns the step to go on from; raises DivergedError where there is no way back."""
        refused = refusal(self.limits, self.emergency, self.good)
        if refused or self.good is None:
            self._stop(step, reason, refused)
        checkpoint = place_to_go_back_to(self.checkpoints, self.good, self.emergency)
        back, wall_before = checkpoint.step, self.wall_before
        now = self.emergency.next(self.limits, back)
        drift = self.trainer.drift(back, step - 1)
        self.run.give_up(back, now.rollbacks)
        self._load(checkpoint)
        self.emergency, self.wall_before, self.sound = now, wall_before, True
        settings = self.trainer.adjust(now.lr_scale, now.kl_scale)
        told = {"rollback": now.rollbacks, "back_to": back, "reason": reason, "settings": settings, "drift": drift}
        message = in_short(reason, now, settings, drift)
        self.bus.emit("emergency", step, message, **told, lr_scale=now.lr_scale, kl_scale=now.kl_scale)
        best = self.selection.best
        self._save(back, best is not None and best.step == back, started)
        return back

    def _evaluate(self, step: int) -> tuple[bool, str]:
        """Evaluate. Whether this is the best so far, and why the run has to go back (empty when it goes on). The starting weights are no
        candidate and nothing to go back from. Raises DivergedError when a rule stops the run."""
        started = time.perf_counter()
        metrics = dict(self.trainer.evaluate(step))
        if not metrics:
            return False, ""
        metrics["time/eval_s"] = time.perf_counter() - started
        self.last_eval = metrics
        self.bus.emit("eval", step, metrics=metrics)
        trouble = self._judged(step, metrics)
        if step == 0 or trouble:
            return False, trouble
        if metrics.get(FAILED, 0.0) >= 1.0:  # nothing could be judged: no improvement, rather than a metric that is missing
            metrics = {self.selection.metric: math.nan, **metrics}
        return self.selection.update(step, metrics), ""

    def _tell(self, finding: Finding) -> None:
        """An alarm that begins or is over, as an event; the second names the first."""
        told: dict[str, Any] = {
            name: getattr(finding, name) for name in ("rule", "level", "state", "metric", "value", "act", "would", "page")
        }
        told["series"] = finding.key.removeprefix(finding.rule).removeprefix("|")
        told = {name: value for name, value in told.items() if value != ""}
        if finding.state == "resolved":
            self.bus.emit("resolved", finding.step, finding.text, **told, began=self.alarms.pop(finding.key, ""))
            return
        would = f" (settings.watch.act is off; on, the answer would be: {finding.would})" if finding.would else ""
        event = self.bus.emit("verdict" if finding.act else "warning", finding.step, finding.text + would, **told)
        self.alarms[finding.key] = event.id

    def _say(self, text: str) -> None:
        """What a user should know of the rules themselves."""
        self.bus.emit("warning", self.now, text)
