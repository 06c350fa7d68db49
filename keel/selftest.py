"""Checks that run before training, on the loaded model and the real data. Each one fails closed and names itself: training that would be
silently wrong does not start. A check is skipped only by its name (``settings.skip_self_test``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor

from keel.core.errors import SelfTestError
from keel.core.events import EventBus
from keel.evaluate.blindness import REMEDY, Changed, Look, changed, policy_moves, scores_move
from keel.loops.gathering import sample_groups
from keel.loops.online import publish, with_signal
from keel.methods.credit.units import rollout_units
from keel.rewards.sources.model import Scorer
from keel.rollout import prove
from keel.types import (
    Batch,
    Counts,
    Encoded,
    Group,
    Inference,
    Learner,
    LossOutput,
    Need,
    Objective,
    Outputs,
    PolicyVersion,
    Prompt,
    Sampler,
    SampleRequest,
    SamplingParams,
    Twin,
    Unit,
)

log = logging.getLogger("keel")

CheckName = Literal[
    "loss-mask",
    "image-tokens",
    "longest-batch",
    "gradients",
    "micro-batches",
    "ranks",
    "reference",
    "sampler",
    "turns",
    "ratio",
    "weight-sync",
    "reward-reads-prompt",
    "reward-reads-answer",
    "reward-reads-image",
    "policy-reads-image",
]
Check = Callable[[], str]  # what is wrong, or ""
Run = Callable[[str, Check], None]  # runs one check by its name

_LOOSE, _TIGHT = 3e-2, 1e-4  # relative, in bf16 and in fp32
_UNREAD = 1e-2  # standard deviations of scores; rounding moves them by 1e-5, an untrained head by 0.02 and more
_UNTRAINED = 0.5  # nats a token that a policy knows; random weights know up to 0.2, and have nothing to be blind with
_LOOKED_AT = 16  # units
_NO_GRADIENT = 1e-5  # a norm below it is rounding, which differs from processor to processor
_RANKS = {"float32": 1e-4, "bfloat16": 3e-2}  # only sums have another order: measured 1e-6 in float32
_ROUNDED = 0.15  # where the ranks round weights and one process does not: measured up to 0.053; averages over ranks are off by 0.5
_GRADIENT = {"float32": 1e-3, "bfloat16": 0.25}  # rounding; a wrong divisor is wrong by the number of micro-batches


class _Checks:
    """Runs named checks, one after the other; the first failure raises SelfTestError."""

    def __init__(self, bus: EventBus, skip: Sequence[str]) -> None:
        self.bus, self.skip, self.passed, self.left_out = bus, set(skip), [], []

    def __enter__(self) -> Run:
        return self.run

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            text = "self-test passed: " + ", ".join(self.passed)
            self.bus.emit("self_test", 0, text, passed=True, checks=self.passed, skipped=self.left_out)

    def run(self, name: str, check: Check) -> None:
        if name in self.skip:
            self.left_out.append(name)
            log.warning("self-test: %s skipped by settings.skip_self_test", name)
            return
        wrong = check()
        if wrong:
            self.bus.emit("self_test", 0, wrong, check=name, passed=False)
            raise SelfTestError(
                f"self-test '{name}' failed: {wrong}", f"settings.skip_self_test=[{name}] trains all the same, at your own risk"
            )
        self.passed.append(name)


def tolerance(learner: Learner) -> float:
    """Relative tolerance of equivalences in the learner's compute precision."""
    return _TIGHT if learner.precision == "float32" else _LOOSE


def check_training(
    learner: Learner, objective: Objective, units: Sequence[Unit], bus: EventBus, skip: Sequence[str], longest: Sequence[Unit] = ()
) -> None:
    """What every training stage proves before its first step. ``longest`` is the largest optimizer batch that can come (default: all
    units). Leaves the learner as it was."""
    with _Checks(bus, skip) as run:
        training(run, learner, objective, units, longest)


def training(run: Run, learner: Learner, objective: Objective, units: Sequence[Unit], longest: Sequence[Unit] = ()) -> None:
    """The checks of ``check_training``, by whichever runner."""
    by_size = largest(units, len(units))
    if "scores" not in objective.needs:
        run("loss-mask", lambda: _empty_masks(units))
    run("image-tokens", lambda: _image_tokens(learner, units))
    try:
        run("longest-batch", lambda: _does_not_fit(learner, objective, longest or units))
        pictured = [u for u in by_size if u.prompt.media][-1:]
        run("gradients", lambda: _missing_gradients(learner, objective, [by_size[len(by_size) // 2], *pictured]))
        run("micro-batches", lambda: _micro_batches(learner, objective, by_size[-2:]))
        if learner.ranks > 1:
            run("ranks", lambda: _ranks_differ(learner, objective, _one_of_each(by_size)))
    finally:
        learner.discard_gradients()


def largest(units: Sequence[Unit], n: int) -> list[Unit]:
    """The ``n`` units with the most tokens, the largest first."""
    return sorted(units, key=lambda u: -u.n_tokens)[:n]


def _one_of_each(by_size: Sequence[Unit]) -> Sequence[Unit]:
    """The two smallest units; where there are both, one with an image and one without: then one rank looks and another does not."""
    kinds = [[u for u in by_size if bool(u.prompt.media) is pictured][-1:] for pictured in (False, True)]
    return [*kinds[0], *kinds[1]] if all(kinds) else by_size[-2:]


def check_reference(learner: Learner, units: Sequence[Unit], bus: EventBus, skip: Sequence[str]) -> None:
    """At step 0 the policy is its reference: the KL between them is 0."""
    with _Checks(bus, skip) as run:
        reference(run, learner, units)


def reference(run: Run, learner: Learner, units: Sequence[Unit]) -> None:
    """The check of ``check_reference``, by whichever runner. Units carry ``ref_logprobs``."""
    few = sorted(units, key=lambda u: u.n_tokens)[:2]
    run("reference", lambda: _reference_differs(learner, few))


def check_sampling(
    learner: Learner,
    sampler: Sampler,
    prompts: Sequence[tuple[Prompt, Encoded]],
    params: SamplingParams,
    bus: EventBus,
    skip: Sequence[str],
    talking: Sampler | None = None,
) -> tuple[Unit, ...]:
    """The sampler draws from the very distribution that the trainer scores (cut where sampling is), refuses weights it was not told of, and
    shows new ones. ``talking``: over the same sampler, holds conversations of several turns, where there is a world to talk with.
    Returns the sampled units, for further checks."""
    with _Checks(bus, skip) as run:
        return sampling(run, learner, sampler, prompts, params, talking)


def sampling(
    run: Run,
    learner: Learner,
    sampler: Sampler,
    prompts: Sequence[tuple[Prompt, Encoded]],
    params: SamplingParams,
    talking: Sampler | None = None,
) -> tuple[Unit, ...]:
    """The checks of ``check_sampling``, by whichever runner."""
    run("weight-sync", lambda: _accepts_wrong_digest(learner, sampler))
    publish(learner, sampler, 0)
    longest = min(8, params.max_tokens)
    short = replace(params, max_tokens=longest, min_tokens=min(longest, params.min_tokens), stop=())
    requests = [SampleRequest(p.prompt_id, encoded, 2, short, 0, keep_support=True) for p, encoded in prompts[:2]]
    asked = {p.prompt_id: p for p, _ in prompts[:2]}
    units = rollout_units(sample_groups(sampler, requests, asked))
    run("sampler", lambda: _sampler_differs(learner, units))
    if talking is not None:
        run("turns", lambda: _turns_differ(learner, sample_groups(talking, requests, asked)))
    run("ratio", lambda: _ratio_moves(learner, units))
    return units


def check_reward_reads(
    scorer: Scorer, units: Sequence[Unit], bus: EventBus, skip: Sequence[str], twins: Mapping[str, Twin] | None = None
) -> None:
    """The reward model's score moves when the prompt, the answer or the images are others: by a share of what scores differ by at all, not
    by rounding alone. Before its training that is all that can be asked. With ``twins``, which are for one that is to judge now, its images
    must move it by the limit of ``evaluate.blindness``."""
    if not units:
        return
    first, second = _two_that_differ(units)
    pairs = changed(units, twins or {})
    with _Checks(bus, skip) as run:
        if second is not None:
            run("reward-reads-prompt", lambda: _ignores(scorer, units, [(first, replace(first, prompt=second.prompt))], "prompt is"))
            other = replace(first, branches=second.branches[:1])
            run("reward-reads-answer", lambda: _ignores(scorer, units, [(first, other)], "answer is"))
        if pairs:
            limit = _UNREAD if twins is None else None
            run("reward-reads-image", lambda: _blind(scores_move(scorer, pairs, units[:_LOOKED_AT]), limit))


def check_policy_looks(policy: Inference, units: Sequence[Unit], twins: Mapping[str, Twin], bus: EventBus, skip: Sequence[str]) -> None:
    """The distributions of a policy's answers move with the image (``evaluate.blindness``). One that knows nothing of its answers yet is
    not asked."""
    pairs = changed(units, twins)
    if pairs:
        with _Checks(bus, skip) as run:
            run("policy-reads-image", lambda: policy_is_blind(policy, pairs))


def policy_is_blind(policy: Inference, pairs: Changed) -> str:
    """What is wrong, or "". ``pairs``: units with their images, and with the images changed."""
    known = policy.information([u for u, _ in next(iter(pairs.values()))])
    if known < _UNTRAINED:
        log.info("self-test: the policy knows %.2g nats a token of its answers: too little to say whether it looks at images", known)
        return ""
    return _blind(policy_moves(policy.divergences, pairs))


# --------------------------------------------------------------------------------------------------------------------------------
# The checks: each returns what is wrong, or ""
# --------------------------------------------------------------------------------------------------------------------------------


def _empty_masks(units: Sequence[Unit]) -> str:
    empty = [u.unit_id for u in units if not any(bool(b.trained_T.any()) for b in u.branches)]
    return f"{len(empty)} of {len(units)} units have no token to train on (first: {empty[0]})" if empty else ""


def _image_tokens(learner: Learner, units: Sequence[Unit]) -> str:
    for unit in units:
        found, due = learner.image_tokens(unit), sum(m.n_tokens for m in unit.prompt.media)
        if found is not None and found != due:
            return f"unit {unit.unit_id} has {found} image tokens, its images have {due} features"
    return ""


def _micro_batches(learner: Learner, objective: Objective, units: Sequence[Unit]) -> str:
    """Loss and gradient of one batch against those of one unit (or branch) after the other; the training pass against the one without
    gradients."""
    learner.discard_gradients()
    with learner.plain_passes(1 << 30):
        whole = learner.evaluate(units, objective).metrics["loss"]
        trained = learner.forward_backward(units, objective).metrics["loss"]
        norm = learner.gradients().norm
        learner.negate_gradients()
    with learner.plain_passes(1):
        split = learner.forward_backward(units, objective).metrics["loss"]
    apart = learner.gradients().norm
    learner.discard_gradients()
    allowed = tolerance(learner) * max(0.1, abs(whole))  # a policy's loss is a difference of large terms and may be 0
    for what, loss in (("in training", trained), ("in micro-batches of one", split)):
        if not abs(loss - whole) <= allowed:
            return f"the loss is {whole:.6g} in one batch and {loss:.6g} {what}"
    if max(norm, apart) < _NO_GRADIENT:
        return ""  # nothing to compare: the rounding of a gradient of 0
    if not apart <= _GRADIENT[learner.precision] * norm:
        return f"the gradient of micro-batches of one is {apart / max(norm, 1e-30):.2g} (relative) away from that of one batch"
    return ""


def _ranks_differ(learner: Learner, objective: Objective, units: Sequence[Unit]) -> str:
    """The gradient that the ranks take together, against that of one process: each rank has a part of the work, or none."""
    gap = learner.apart(units, objective)
    if gap is None or max(gap.norm, gap.norm_alone) < _NO_GRADIENT:
        return ""
    allowed = (_ROUNDED if gap.rounded else _RANKS[learner.precision]) * gap.norm_alone
    if not gap.apart <= allowed:
        return (
            f"the gradient over {learner.ranks} ranks is {gap.apart / max(gap.norm_alone, 1e-30):.2g} (relative) away from that of one "
            f"process; their norms are {gap.norm:.6g} and {gap.norm_alone:.6g}"
        )
    if not abs(gap.norm - gap.norm_alone) <= allowed:
        return f"grad_norm is {gap.norm:.6g} over {learner.ranks} ranks and {gap.norm_alone:.6g} in one process"
    return ""


def _does_not_fit(learner: Learner, objective: Objective, units: Sequence[Unit]) -> str:
    """The largest micro-batch of ``units`` forward and backward, beside the memory that the optimizer will take."""
    part = learner.longest(units, objective)
    said = learner.fits(part, objective)
    if not said:
        return ""
    n_tokens, unit = sum(u.n_tokens for u in part), largest(part, 1)[0]
    what = f"{len(part)} of the longest units ({n_tokens} tokens, {unit.n_tokens} of them unit {unit.unit_id})"
    return f"a micro-batch of {what} does not fit in memory: {said}; lower batch.microbatch_tokens"


def _missing_gradients(learner: Learner, objective: Objective, units: Sequence[Unit]) -> str:
    learner.discard_gradients()
    learner.forward_backward(units, objective)
    found = learner.gradients()
    missing = found.missing
    if missing:
        idle = learner.idle(units[-1])
        log.info("self-test: %d parameters take part in nothing and stay as they are", len(idle))
        missing = tuple(name for name in missing if name not in idle)
    for names, what in (
        (missing, "trained parameters got no gradient"),
        (found.frozen, "frozen parameters got one"),
        (found.broken, "gradients are not finite"),
    ):
        if names:
            return f"{len(names)} {what}: {', '.join(names[:3])}"
    return ""


def _largest_gap(ours: Sequence[tuple[Tensor, ...]], units: Sequence[Unit], signal: str) -> float:
    gaps = [
        float((a - b.signals[signal])[b.trained_T].abs().max())
        for row, u in zip(ours, units, strict=True)
        for a, b in zip(row, u.branches, strict=True)
    ]
    return max(gaps, default=0.0)


def nats(learner: Learner) -> float:
    """Tolerance of single log-probabilities, in nats."""
    return prove.nats(learner.precision)


def _reference_differs(learner: Learner, units: Sequence[Unit]) -> str:
    gap = _largest_gap(learner.logprobs(units), units, "ref_logprobs")
    return f"policy and reference differ by {gap:.3g} nats on a token before the first step" if gap > nats(learner) else ""


def _sampler_differs(learner: Learner, units: Sequence[Unit]) -> str:
    gap = _largest_gap(learner.logprobs(units), units, "sampler_logprobs")
    return f"sampler and trainer differ by {gap:.3g} nats on the same token" if gap > nats(learner) else ""


def _turns_differ(learner: Learner, groups: Sequence[Group]) -> str:
    """Every sampled token of every turn, behind what it was sampled behind; a conversation that forks has several branches."""
    units = rollout_units(groups)
    gap = _largest_gap(learner.logprobs(units), units, "sampler_logprobs")
    held = [r for g in groups for r, ok in zip(g.rollouts, g.valid_G.tolist(), strict=True) if ok]
    turns = [int(r.turn_T[r.sampled_T].max()) + 1 for r in held if r.turn_T is not None and bool(r.sampled_T.any())]
    if max(turns, default=0) < 2:
        failed = next((r.error for g in groups for r in g.rollouts if r.error), "the world ended each of them, or there was no room")
        log.warning("self-test: no conversation came to a second turn, so later turns are not proved: %s", failed)
    if gap <= nats(learner):
        return ""
    return f"sampler and trainer differ by {gap:.3g} nats on the same token of a conversation of up to {max(turns, default=0)} turns"


@dataclass(frozen=True, slots=True)
class _TrainedLogprobs:
    """An objective of no loss that tells how far the training pass's log-probabilities are from the recorded ones."""

    needs: frozenset[Need] = frozenset({"logprobs"})
    token_local: bool = True
    couples_branches: bool = False

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        apart_S = outputs.logprobs_S.detach() - batch.signals["old_logprobs"]
        return LossOutput(outputs.logprobs_S.sum() * 0.0, {"gap/max": (float(apart_S.abs().max()), 1.0)})


def _ratio_moves(learner: Learner, units: Sequence[Unit]) -> str:
    """The trainer's log-probabilities of the same units: together, one by one, and in a training pass. Old ones and new ones need not be
    cut alike."""
    whole = learner.logprobs(units)
    with learner.plain_passes(1):
        split = learner.logprobs(units)
    try:
        again = learner.forward_backward(with_signal(units, "old_logprobs", whole), _TrainedLogprobs())
    finally:
        learner.discard_gradients()
    gaps = [float((a - b).abs().max()) for x, y in zip(whole, split, strict=True) for a, b in zip(x, y, strict=True)]
    gap = max(again.metrics["gap/max"], *gaps)
    if gap <= nats(learner):
        return ""
    return f"the same weights give log-probabilities {gap:.3g} nats apart when asked twice: the first ratio would not be 1"


def _accepts_wrong_digest(learner: Learner, sampler: Sampler) -> str:
    weights = learner.weights()
    honest = weights.digest()
    with learner.altered():
        if weights.digest() == honest:
            return "the digest does not change when the weights do"
        try:
            sampler.load(PolicyVersion(0, honest), weights)
        except SelfTestError:
            return ""
        return "the sampler accepts a digest that is not that of its weights"


def _blind(look: Look | None, limit: float | None = None) -> str:
    """``limit``: below the one that says blind, where only rounding is to be told from looking."""
    if look is None or (look.most >= limit if limit is not None else not look.blind):
        return ""
    return f"{look.finding}: it does not look. What helps: {REMEDY}" if limit is None else f"{look.finding}: it is not read"


def _two_that_differ(units: Sequence[Unit]) -> tuple[Unit, Unit | None]:
    first = replace(units[0], branches=units[0].branches[:1])
    for unit in units[1:]:
        if not torch.equal(unit.prompt.tokens_T, first.prompt.tokens_T) and not torch.equal(
            unit.branches[0].tokens_T, first.branches[0].tokens_T
        ):
            return first, unit
    return first, None


def _ignores(scorer: Scorer, units: Sequence[Unit], swapped: Sequence[tuple[Unit, Unit]], what: str) -> str:
    """How far scores move beside what they differ by: in standard deviations, so that neither a small new head nor rounding matters."""

    def score(us: Sequence[Unit]) -> Tensor:
        return torch.stack([scorer([replace(u, branches=u.branches[:1])])[0][0].double().cpu() for u in us])

    before, after = (score(side) for side in zip(*swapped, strict=True))
    spread = float(torch.cat([score(units[:_LOOKED_AT]), before, after]).std(correction=0))
    moved = float((after - before).abs().mean()) / (spread or 1.0)
    if moved > _UNREAD:
        return ""
    return f"scores move by {moved:.2g} of their standard deviation ({spread:.2g}) when the {what} swapped: that is not read"
