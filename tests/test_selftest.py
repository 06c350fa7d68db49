"""Each check of the self-test fails when what it is there for is broken, and says its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from keel import doctor as doctor_module
from keel import selftest
from keel.core.errors import SelfTestError
from keel.core.events import Event, EventBus
from keel.evaluate.blindness import changed
from keel.learner import inference
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.loops.online import with_signal
from keel.methods.objectives.reward import RewardObjective
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.rollout.local import LocalSampler
from keel.rollout.prove import company
from keel.types import (
    Branch,
    Edge,
    Encoded,
    LossOutput,
    MediaRef,
    PairTarget,
    PolicyVersion,
    Prompt,
    Rollout,
    SamplingParams,
    Unit,
    Weights,
)
from keel.verbs.shared.sampled import longest_batch

PARAMS = SamplingParams(max_tokens=6, stop_tokens=(3,))


class Recorder:
    """A sink that keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None: ...


def make(*heads: Any) -> LocalLearner:
    model = load_model("tiny:llama?seed=1&std=0.15", ModelOptions(precision="fp32"), heads=frozenset(heads), new_heads=True).model
    return LocalLearner(model, OptimConfig(), BatchConfig(), 10, seed=0)


@pytest.fixture
def learner(proofs: None) -> LocalLearner:
    return make()


@pytest.fixture
def reward_learner(proofs: None) -> LocalLearner:
    return make("score")


def unit(i: int, length: int = 6) -> Unit:
    tokens = torch.arange(10 + 7 * i, 10 + 7 * i + length)
    branches = tuple(Branch(tokens + 50 * k, torch.ones(length, dtype=torch.bool)) for k in (1, 2))
    return Unit(f"u{i}", Encoded(torch.arange(20 + i, 28 + i)), branches, PairTarget((Edge(0, 1),)))


UNITS = (unit(0), unit(1, 9), unit(2, 4))


@pytest.fixture
def prompts() -> list[tuple[Prompt, Encoded]]:
    return [(Prompt(f"p{i}", text="x"), Encoded(torch.arange(20 + i, 28 + i))) for i in range(2)]


def training(learner: LocalLearner, units: Sequence[Unit] = UNITS, objective: Any = None, skip: Sequence[str] = ()) -> Recorder:
    recorder = Recorder()
    selftest.check_training(learner, objective or SupervisedObjective(), units, EventBus([recorder]), skip)
    return recorder


def fails(name: str) -> Any:
    return pytest.raises(SelfTestError, match=f"self-test '{name}' failed")


def test_a_sound_learner_passes_and_is_left_as_it_was(learner: LocalLearner) -> None:
    before = learner.model.digest()
    events = training(learner).events
    assert events[-1].data["checks"] == ["loss-mask", "image-tokens", "longest-batch", "gradients", "micro-batches"]
    assert learner.model.digest() == before
    assert all(p.grad is None for _, p in learner.model.trainable())
    learner.state()  # would refuse with gradients accumulated


def test_empty_mask(learner: LocalLearner) -> None:
    nothing = tuple(replace(b, trained_T=torch.zeros_like(b.trained_T)) for b in UNITS[1].branches)
    with fails("loss-mask"):
        training(learner, [UNITS[0], replace(UNITS[1], branches=nothing)])


def test_image_tokens_without_features(learner: LocalLearner) -> None:
    learner.model.config.image_token_id = 25
    with fails("image-tokens"):
        training(learner, [replace(UNITS[0], prompt=Encoded(torch.tensor([25, 25, 30]), (MediaRef("x", 3),)))])


class MeanOfMeans(SupervisedObjective):
    """A loss that divides by its own micro-batch."""

    def loss(self, batch: Any, outputs: Any, counts: Any) -> LossOutput:
        return super().loss(batch, outputs, {name: float(batch.n_scored) for name in counts})


def test_a_loss_that_depends_on_micro_batches(learner: LocalLearner) -> None:
    with fails("micro-batches"):
        training(learner, objective=MeanOfMeans())


class MeanOfMeansInTraining(MeanOfMeans):
    """The same in training passes only."""

    def loss(self, batch: Any, outputs: Any, counts: Any) -> LossOutput:
        return (super() if torch.is_grad_enabled() else SupervisedObjective()).loss(batch, outputs, counts)


def test_a_training_pass_that_depends_on_micro_batches(learner: LocalLearner) -> None:
    with fails("micro-batches"):
        training(learner, objective=MeanOfMeansInTraining())


class RightLossWrongGradient(SupervisedObjective):
    """The loss does not depend on the micro-batch, its gradient does."""

    def loss(self, batch: Any, outputs: Any, counts: Any) -> LossOutput:
        right, wrong = super().loss(batch, outputs, counts), MeanOfMeans().loss(batch, outputs, counts).loss
        return LossOutput(right.loss.detach() + wrong - wrong.detach(), right.metrics)


def test_a_gradient_that_depends_on_micro_batches(learner: LocalLearner) -> None:
    with pytest.raises(SelfTestError, match="the gradient of micro-batches of one is"):
        training(learner, objective=RightLossWrongGradient())


def test_dropout_is_no_difference_between_micro_batches(proofs: None) -> None:
    lora = LoraConfig(r=4, dropout=0.5)
    model = load_model("tiny:llama?seed=1&std=0.15", ModelOptions(precision="fp32"), lora).model
    learner = LocalLearner(model, OptimConfig(), BatchConfig(), 10, seed=0)
    training(learner)
    assert learner._dropped


def test_a_full_micro_batch_of_the_longest_units_must_fit(learner: LocalLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each unit has room by itself. What is tried is what the largest optimizer batch makes of the micro-batch's limit."""
    original = learner.forward_backward

    def little_room(units: Sequence[Unit], *arguments: Any) -> Any:
        if sum(u.n_tokens for u in units) > max(u.n_tokens for u in UNITS):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(units, *arguments)

    monkeypatch.setattr(learner, "forward_backward", little_room)
    with pytest.raises(SelfTestError, match=r"'longest-batch' failed: a micro-batch of 3 of the longest units .* unit u1"):
        training(learner)
    checked = ("micro-batches", "gradients")
    selftest.check_training(learner, SupervisedObjective(), UNITS, EventBus(), checked, selftest.largest(UNITS, 1))
    learner.batch = BatchConfig(microbatch_tokens=30)
    training(learner, skip=checked)


def test_room_for_the_optimizer_is_taken_while_it_has_none(learner: LocalLearner) -> None:
    assert sum(t.numel() for t in learner._moments()) == 2 * sum(p.numel() for _, p in learner.model.trainable())
    learner.forward_backward(UNITS[:1], SupervisedObjective())
    learner.step()
    assert learner._moments() == []


def test_the_largest_batch_of_rl(learner: LocalLearner) -> None:
    """The longest prompts, each with all its samples at full length, with every signal that the short ones have."""
    ready = with_signal(UNITS[:1], "advantages", [tuple(torch.ones(len(b)) for b in UNITS[0].branches)])
    prompts = {f"p{n}": (Prompt(f"p{n}", text="x"), Encoded(torch.arange(20, 20 + n))) for n in (5, 40, 7, 30)}
    longest = longest_batch(ready, prompts, 2, 8, 20)
    assert [(len(u.prompt), [len(b) for b in u.branches]) for u in longest] == [(40, [20] * 8), (30, [20] * 8)]
    assert all(len(t) == 20 for u in longest for b in u.branches for t in (b.trained_T, *b.signals.values()))
    report = learner.forward_backward(longest, SupervisedObjective())
    assert report.n_tokens == 70 + 16 * 20


def test_a_trained_parameter_without_a_gradient(learner: LocalLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packed path loses the gradient of the body; the head still has one."""
    original = type(learner.model).hidden
    monkeypatch.setattr(type(learner.model), "hidden", lambda model, batch: original(model, batch).detach().requires_grad_())
    learner.model.module.lm_head.weight = torch.nn.Parameter(learner.model.head_weight_VH.detach().clone())
    with fails("gradients"):
        training(learner)


def test_a_head_without_a_gradient(reward_learner: LocalLearner) -> None:
    with fails("gradients"):
        training(reward_learner)  # a loss that asks for no scores


def test_a_parameter_that_the_model_has_no_use_for_is_no_fault(learner: LocalLearner) -> None:
    learner.model.module.get_decoder().register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))
    training(learner)


def test_a_frozen_parameter_with_a_gradient(learner: LocalLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = next(p for _, p in learner.model.trainable())
    frozen.requires_grad_(False)
    original = learner.forward_backward

    def leaking(*arguments: Any) -> Any:
        frozen.grad = torch.ones_like(frozen)
        return original(*arguments)

    monkeypatch.setattr(learner, "forward_backward", leaking)
    with fails("gradients"):
        training(learner)


def test_gradients_that_are_not_finite(learner: LocalLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    original = learner.forward_backward

    def broken(*arguments: Any) -> Any:
        report = original(*arguments)
        next(p for _, p in learner.model.trainable()).grad[0] = float("nan")  # type: ignore[index]
        return report

    monkeypatch.setattr(learner, "forward_backward", broken)
    with fails("gradients"):
        training(learner)


def test_a_check_is_skipped_by_its_name_only(learner: LocalLearner) -> None:
    recorder = training(learner, objective=MeanOfMeans(), skip=["micro-batches"])
    assert recorder.events[-1].data["skipped"] == ["micro-batches"]
    with fails("micro-batches"):
        training(learner, objective=MeanOfMeans(), skip=["gradients"])


def test_a_failure_is_an_event(learner: LocalLearner) -> None:
    recorder = Recorder()
    with fails("micro-batches"):
        selftest.check_training(learner, MeanOfMeans(), UNITS, EventBus([recorder]), ())
    assert [(e.kind, e.data["check"], e.data["passed"]) for e in recorder.events] == [("self_test", "micro-batches", False)]


# ----------------------------------------------------------------------------------------------------------- reference and sampler


def test_a_reference_that_is_another_model(learner: LocalLearner) -> None:
    same = with_signal(UNITS, "ref_logprobs", learner.logprobs(UNITS))
    selftest.check_reference(learner, same, EventBus(), ())
    other = [tuple(t - 0.01 for t in row) for row in learner.logprobs(UNITS)]
    with fails("reference"):
        selftest.check_reference(learner, with_signal(UNITS, "ref_logprobs", other), EventBus(), ())


Sampling = Callable[..., tuple[Unit, ...]]


@pytest.fixture
def sample(learner: LocalLearner, prompts: list[tuple[Prompt, Encoded]]) -> Sampling:
    def run(sampler: Any = None, params: SamplingParams = PARAMS) -> tuple[Unit, ...]:
        mine = sampler or LocalSampler(learner.model, lambda tokens_T: "text")
        return selftest.check_sampling(learner, mine, prompts, params, EventBus(), ())

    return run


class Sloppy(LocalSampler):
    """A sampler with one fault."""

    def __init__(self, learner: LocalLearner, shift: float = 0.0, checks_weights: bool = True) -> None:
        super().__init__(learner.model, lambda tokens_T: "text")
        self.shift, self.checks_weights = shift, checks_weights

    def collect(self) -> Iterator[Rollout]:
        for rollout in super().collect():
            yield replace(rollout, logprobs_T=rollout.logprobs_T + self.shift)

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        if self.checks_weights:
            super().load(version, weights)


def test_a_sound_sampler_passes(learner: LocalLearner, sample: Sampling) -> None:
    before = learner.model.digest()
    assert len(sample()) == 2
    assert learner.model.digest() == before


def test_a_sampler_of_another_distribution(learner: LocalLearner, sample: Sampling) -> None:
    with fails("sampler"):
        sample(Sloppy(learner, shift=-0.02))


def test_a_trainer_of_another_temperature(learner: LocalLearner, sample: Sampling) -> None:
    with fails("sampler"):
        sample(params=replace(PARAMS, temperature=0.7))


def test_a_sampler_that_takes_any_weights(learner: LocalLearner, sample: Sampling) -> None:
    with fails("weight-sync"):
        sample(Sloppy(learner, checks_weights=False))


def test_a_digest_that_does_not_see_the_weights(learner: LocalLearner, sample: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(learner.model), "digest", lambda model: "always the same")
    with fails("weight-sync"):
        sample()


def test_log_probabilities_that_change_when_asked_twice(learner: LocalLearner, sample: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = learner.logprobs, iter(range(100))

    def drifting(units: Sequence[Unit]) -> list[tuple[Tensor, ...]]:
        shift = 0.1 if next(asked) >= 2 else 0.0  # the first call is the comparison with the sampler
        return [tuple(t + shift for t in row) for row in original(units)]

    monkeypatch.setattr(learner, "logprobs", drifting)
    with fails("ratio"):
        sample()


def test_training_passes_of_other_log_probabilities(learner: LocalLearner, sample: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without gradients agree with one another; the fused loss is of another temperature."""
    original = inference.fused_token_loss
    monkeypatch.setattr(inference, "fused_token_loss", lambda h, head, *rest: original(h, replace(head, temperature=1.2), *rest))
    with fails("ratio"):
        sample()


# --------------------------------------------------------------------------------------------------------------------- reward models


@pytest.mark.parametrize("part", ["prompt", "answer"])
def test_a_reward_model_that_does_not_read(part: str, reward_learner: LocalLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    selftest.check_reward_reads(reward_learner.scores, UNITS, EventBus(), ())

    def blind(units: Sequence[Unit]) -> list[Tensor]:
        read = [u.branches[0].tokens_T if part == "prompt" else u.prompt.tokens_T for u in units]
        return [tokens.float().sum()[None] for tokens in read]

    monkeypatch.setattr(reward_learner, "scores", blind)
    with fails(f"reward-reads-{part}"):
        selftest.check_reward_reads(reward_learner.scores, UNITS, EventBus(), ())


def test_a_reward_model_that_does_not_look(reward_learner: LocalLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    pictured = [replace(u, prompt=Encoded(u.prompt.tokens_T, (MediaRef(f"image {i}", 1),))) for i, u in enumerate(UNITS)]

    def scores(units: Sequence[Unit]) -> list[Tensor]:
        return [(u.prompt.tokens_T.sum() + 3 * u.branches[0].tokens_T.sum()).float()[None] for u in units]

    monkeypatch.setattr(reward_learner, "scores", scores)
    with fails("reward-reads-image"):
        selftest.check_reward_reads(reward_learner.scores, pictured, EventBus(), ())


def test_rounding_is_not_looking(reward_learner: LocalLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is blind but for the last bits moves its scores by 1e-7: that is measured against what scores differ by."""
    pictured = [replace(u, prompt=Encoded(u.prompt.tokens_T, (MediaRef(f"image {i}", 1),))) for i, u in enumerate(UNITS)]

    def scores(units: Sequence[Unit], look: float) -> list[Tensor]:
        texts = [float(u.prompt.tokens_T.sum() + 3 * u.branches[0].tokens_T.sum()) for u in units]
        return [torch.tensor([t + look * int(u.prompt.media[0].digest[-1])]) for t, u in zip(texts, units, strict=True)]

    spread = float(torch.tensor([float(s) for s in scores(pictured, 0.0)]).std(correction=0))
    monkeypatch.setattr(reward_learner, "scores", lambda units: scores(units, 1e-4 * spread))
    with fails("reward-reads-image"):
        selftest.check_reward_reads(reward_learner.scores, pictured, EventBus(), ())
    monkeypatch.setattr(reward_learner, "scores", lambda units: scores(units, 0.1 * spread))
    selftest.check_reward_reads(reward_learner.scores, pictured, EventBus(), ())


def test_only_images_that_fit_are_swapped(reward_learner: LocalLearner) -> None:
    """Tiles and sizes of their own give images other numbers of tokens: those are no partners."""
    first, second, third = (u.prompt.tokens_T for u in UNITS)
    a, b, c = (MediaRef(name, n) for name, n in (("a", 4), ("b", 9), ("c", 4)))
    one = Encoded(first, (a,))
    assert one.with_images_of(Encoded(second, (b,))) is None
    assert one.with_images_of(Encoded(second, (a,))) is None
    assert one.with_images_of(Encoded(second, (c,))) == Encoded(first, (c,))
    wide, high = (torch.tensor([[0, 1, x, y, 4, 5, 6, 7]] * 3) for x, y in ((1, 2), (2, 1)))
    placed = Encoded(first, (a,), wide)
    assert placed.with_images_of(Encoded(third, (c,), high)) is None, "as many tokens in other places"
    other = Encoded(first, (c,), high)
    assert placed.with_images_of(other) is other, "the same words: the other prompt is what is meant"
    tiled = [replace(u, prompt=replace(u.prompt, media=(MediaRef(f"image {i}", 4 + i),))) for i, u in enumerate(UNITS)]
    assert changed(tiled, {}) == {}
    selftest.check_reward_reads(reward_learner.scores, [replace(u, prompt=replace(u.prompt, media=())) for u in tiled], EventBus(), ())


def test_a_reward_model_passes_its_training_checks(reward_learner: LocalLearner) -> None:
    pairs = [replace(u, branches=tuple(replace(b, trained_T=torch.zeros_like(b.trained_T)) for b in u.branches)) for u in UNITS]
    recorder = Recorder()
    selftest.check_training(reward_learner, RewardObjective(), pairs, EventBus([recorder]), ())
    assert "loss-mask" not in recorder.events[-1].data["checks"], "a reward model trains no token"


# ---------------------------------------------------------------------------------------------------------------------------- doctor


def test_the_doctor_finds_a_sound_model_sound(proofs: None) -> None:
    summary = doctor_module.doctor("tiny:llama", ["longest=64", "model_options.precision=fp32"])
    assert all(row["passed"] and not row["note"] for row in summary["checks"])
    assert {"greedy", "resume", "sampler", "weight-sync", "reference", "packed-rows"} <= {row["check"] for row in summary["checks"]}
    assert {"cores", "threads", "memory_gb", "bf16_in_hardware", "auto_precision", "gpu", "torch"} <= set(summary["machine"])
    measured = next(row for row in summary["checks"] if row["check"] == "rows-beside")
    assert 0 <= measured["measured"] < 1e-4
    assert measured["finding"] == company(measured["measured"]), "what it says is what was measured, on this machine"


def test_the_doctor_names_what_is_broken(proofs: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    original = LocalLearner.load_state

    def forgetful(self: LocalLearner, tensors: Any, state: Any) -> None:
        original(self, {name: t for name, t in tensors.items() if not name.startswith("optim/")}, state)

    monkeypatch.setattr(LocalLearner, "load_state", forgetful)
    with pytest.raises(SelfTestError, match="resume failed"):
        doctor_module.doctor("tiny:llama", ["longest=64", "model_options.precision=fp32"])
    assert "FAILED  resume" in capfd.readouterr().err


def test_the_doctor_tells_of_a_slow_path_without_failing(proofs: None) -> None:
    summary = doctor_module.doctor("tiny:llama", ["longest=64", "model_options={precision: fp32, fast_path: off}"])
    slow = {row["check"]: row["note"] for row in summary["checks"] if row["note"]}
    assert set(slow) == {"packed-rows", "decoding"}


def test_a_gradient_of_nothing_is_compared_with_nothing(reward_learner: LocalLearner) -> None:
    """Two answers of the same tokens: the loss is ln 2 and its gradient 0, up to rounding that differs between micro-batches."""
    same = [replace(u, branches=(u.branches[0], u.branches[0])) for u in UNITS]
    assert selftest._micro_batches(reward_learner, RewardObjective(), same) == ""
    assert selftest._micro_batches(reward_learner, RewardObjective(), UNITS) == ""
