"""One real micro-batch of the worst shape, and one sampling call, in a process of their own: what each takes, and how long.

    python -m keel.plan.probe VERB RECIPE FOLDER

builds the run as its verb does, on the longest records alone, in FOLDER; nothing of it is trained further or kept. It prints a line of
JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from keel.core.config import load
from keel.core.errors import ConfigError, UserError
from keel.core.events import EventBus
from keel.learner.local import LocalLearner
from keel.learner.packing import plan_pieces
from keel.loops.gathering import sample_groups
from keel.loops.online import with_signal
from keel.methods import rollout_units
from keel.methods.objectives.common import credited
from keel.models.loading import device_of
from keel.plan.meter import Meter
from keel.plan.tokens import lengths_of
from keel.rollout.config import RolloutConfig
from keel.runs.directory import RunDir
from keel.types import Learner, Objective, SampleRequest, Unit
from keel.verbs.reward.build import build as build_reward
from keel.verbs.rl.build import RLParts, ready_unit
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.run import BUILDERS, RECIPES, Builder
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import TrainRecipe
from keel.verbs.shared.sampled import longest_batch
from keel.verbs.shared.session import Session, set_machine
from keel.verbs.shared.units import Splits, datasets

STEPS = 16  # tokens that the sampling call draws, at most: as few as make the decoder copy its weights
_KEPT = 4  # optimizer batches of the longest records


@dataclass(slots=True)
class Probed:
    """Bytes at the peak of each stretch (0: there was none), the shapes that they belong to, and seconds."""

    loading: int = 0  # while the run was built
    standing: int = 0  # of it, when it was built
    sampling: int = 0
    scoring: int = 0
    training: int = 0  # with the optimizer's moments there
    critic: int = 0
    after: int = 0  # what stands when all is done
    trained: int = 0  # parameters
    microbatch: int = 0
    scored: int = 0
    inference: int = 0
    rows: int = 0
    prompt: int = 0
    answer: int = 0
    train_s: float = 0.0
    update_s: float = 0.0
    infer_s: float = 0.0
    sample_s: float = 0.0


def probe(verb: str, recipe: TrainRecipe, folder: Path) -> Probed:
    """Build, sample, score, train once and once more. Raises UserError for a run that cannot be built, or not be measured."""
    set_machine(recipe)
    if isinstance(recipe, RLRecipe) and recipe.sampler.engine != "local":
        rows = RolloutConfig(max_rows=recipe.sampler.max_rows, prefill_tokens=recipe.sampler.prefill_tokens)
        recipe = recipe.model_copy(update={"sampler": rows})
    meter, found = Meter(device_of(recipe.model_options)), Probed()
    splits = _longest(datasets(recipe), _KEPT * recipe.loop.batch_size)
    run = RunDir.open(folder / "run", recipe, verb, recipe.seed, data_fingerprints=splits.fingerprints)
    try:
        session = Session(verb, recipe, run, EventBus([], run.identity))
        meter.start()
        parts = cast(Builder, build_reward if verb == "reward" else BUILDERS[verb])(session, recipe, splits)
        found.loading, found.standing = meter.peak(), meter.now()
        if isinstance(parts, RLParts):
            _probe_sampled(parts, meter, found)
        elif isinstance(parts, OfflineParts):
            _probe_read(parts, meter, found)
        else:
            raise ConfigError("--measure: preferences that are made while training are not measured", "leave --measure out")
        found.after = meter.now()
    finally:
        run.close()
    return found


def _longest(splits: Splits, n: int) -> Splits:
    """The ``n`` longest records of each side, by bytes: the others change no peak."""

    def few(data: Any) -> Any:
        if data is None:
            return None
        units = lengths_of(data.records, (), 4.0).units
        kept = sorted(sorted(range(len(units)), key=lambda i: -units[i])[:n])
        return replace(data, records=tuple(data.records[i] for i in kept))

    return replace(splits, train=few(splits.train), held_out=few(splits.held_out), test=None)


def _probe_read(parts: OfflineParts, meter: Meter, found: Probed) -> None:
    learner, objective = _alone(parts.learner), parts.objective
    units = sorted(credited(objective, parts.units.train), key=lambda u: -u.n_tokens)
    batch = units[: parts.training.loop.batch_size]
    _score(learner, units, partial(learner.evaluate, objective=objective), meter, found)
    _train(learner, objective, batch, meter, found)


def _probe_sampled(parts: RLParts, meter: Meter, found: Probed) -> None:
    prompts, samples, params = parts.prompts["train"], parts.samples, parts.params
    n = min(len(prompts), parts.training.loop.batch_size)
    longest = sorted(prompts.values(), key=lambda pe: -len(pe[1]))[:n]
    rows = n * samples
    short = replace(params, max_tokens=min(STEPS, params.max_tokens), min_tokens=min(STEPS, params.max_tokens), stop=())
    requests = [SampleRequest(p.prompt_id, encoded, samples, short, 0, keep_support=True) for p, encoded in longest]
    meter.start(trim=True)
    began = time.perf_counter()
    units = rollout_units(sample_groups(parts.sampler, requests, {p.prompt_id: p for p, _ in longest}))
    found.sample_s, found.sampling = time.perf_counter() - began, meter.peak()
    found.rows, found.answer, found.prompt = rows, short.max_tokens, max(len(encoded) for _, encoded in longest)
    ready: list[Unit] = [ready_unit(u) for u in units]
    if parts.reference is not None:
        ready = list(with_signal(ready, "ref_logprobs", parts.reference.logprobs(ready)))
    per = -(-parts.training.loop.batch_size // parts.algorithm.minibatches)
    batch = longest_batch(ready, prompts, per, samples, params.max_tokens)
    passed = parts.reference.logprobs if parts.reference is not None else parts.policy.logprobs
    policy = _alone(parts.policy)
    _score(policy, batch, passed, meter, found)
    _train(policy, parts.algorithm.policy_objective(), batch, meter, found)
    if parts.critic is not None:
        meter.start(trim=True)
        _twice(_alone(parts.critic), parts.algorithm.value_objective(), batch)
        found.critic = meter.peak()


def _alone(learner: Learner) -> LocalLearner:
    """The learner, of this process. Raises ConfigError for ranks, whose memory this process does not see."""
    if not isinstance(learner, LocalLearner):
        raise ConfigError("--measure looks at one process, and cluster.ranks shares the work out", "measure with cluster.ranks=1 --ranks N")
    return learner


def _score(learner: LocalLearner, units: Sequence[Unit], passed: Callable[[Sequence[Unit]], Any], meter: Meter, found: Probed) -> None:
    """The largest pass without gradients."""
    pieces = plan_pieces(units, learner.batch.inference_tokens, False)
    part = [p.unit for p in max(pieces, key=lambda ps: sum(p.unit.n_tokens for p in ps))]
    meter.start(trim=True)
    began = time.perf_counter()
    passed(part)
    found.infer_s, found.scoring, found.inference = time.perf_counter() - began, meter.peak(), sum(u.n_tokens for u in part)


def _train(learner: LocalLearner, objective: Objective, batch: Sequence[Unit], meter: Meter, found: Probed) -> None:
    part = learner.longest(batch, objective)
    found.microbatch = sum(u.n_tokens for u in part)
    found.scored = sum(int(b.trained_T.sum()) for u in part for b in u.branches)
    found.trained = sum(p.numel() for _, p in learner.model.trainable())
    meter.start(trim=True)
    found.train_s, found.update_s = _twice(learner, objective, part)
    found.training = meter.peak()


def _twice(learner: LocalLearner, objective: Objective, batch: Sequence[Unit]) -> tuple[float, float]:
    """The first step makes the moments, the second pass meets them. Seconds of this pass and of its update."""
    part = learner.longest(batch, objective)
    learner.forward_backward(part, objective)
    learner.step()
    began = time.perf_counter()
    learner.forward_backward(part, objective)
    middle = time.perf_counter()
    learner.step()
    return middle - began, time.perf_counter() - middle


def main(argv: Sequence[str]) -> int:
    """Exit code 0 and a line of JSON; 2 and the message of a UserError."""
    verb, recipe, folder = argv
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        found = probe(verb, cast(TrainRecipe, load(RECIPES[verb], Path(recipe))), Path(folder))
    except UserError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}))
        return 2
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
