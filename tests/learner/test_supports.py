"""Answers drawn from a part of the vocabulary: the learner normalises over each token's own support, however a batch is cut, and goes on
doing so when its own nucleus is another one by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.learner.packing import narrow, pack
from keel.loops.online import with_signal
from keel.methods.math.policy import POLICY_LOSSES, Correction
from keel.methods.objectives.policy import PolicyObjective
from keel.models.config import LoraConfig
from keel.rollout.distribution import top_p_floor
from keel.types import Branch, Encoded, Unit
from keel.types.support import Support
from keel.verbs.shared.reference_cache import ReferenceCache

TEMPERATURE = 0.8


def make_units(vocab: int, n: int = 4) -> list[Unit]:
    """Prompts with three answers each. Some tokens are not trained, some supports are short lists, masks, or everything; one answer of each
    prompt is not cut at all."""
    g = torch.Generator().manual_seed(0)

    def branch(length: int, cut: bool) -> Branch:
        tokens, trained = torch.randint(5, 300, (length,), generator=g), torch.rand(length, generator=g) < 0.8
        trained[-1] = True
        inside = torch.rand(length, vocab, generator=g) < torch.rand(length, 1, generator=g) ** 6
        inside[torch.arange(length), tokens] = True
        support = Support.of(inside, torch.rand(length, generator=g) < 0.2) if cut else None
        signals = {"advantages": torch.randn(length, generator=g), "sampler_logprobs": -torch.rand(length, generator=g)}
        return Branch(tokens, trained, signals, support)

    prompts = [Encoded(torch.randint(5, 300, (3 + 2 * i,), generator=g)) for i in range(n)]
    return [Unit(f"u{i}", p, tuple(branch(4 + i + 2 * k, k != 1) for k in range(3))) for i, p in enumerate(prompts)]


def learner(load, lora: LoraConfig | None = None, lr: float = 1e-2, **batch: int) -> LocalLearner:
    model = load("llama", lora=lora).model
    return LocalLearner(model, OptimConfig(lr=lr, schedule="constant", warmup_ratio=0.0), BatchConfig(**batch), 100, 0, TEMPERATURE)


@torch.no_grad()
def plain(own: LocalLearner, units: Sequence[Unit], supported: bool = True) -> list[list[torch.Tensor]]:
    """Branch by branch through the module itself, and a dense log_softmax in float64."""
    out = []
    for unit in units:
        out.append([])
        for b in unit.branches:
            ids = torch.cat([unit.prompt.tokens_T, b.tokens_T])[None]
            hidden = own.model.run_plain(ids, torch.ones_like(ids))[0, len(unit.prompt) - 1 : -1]
            z = own.model.logits(hidden).double() / TEMPERATURE
            if supported and b.support is not None:
                z = z.masked_fill(b.support.outside(slice(0, len(b))), -torch.inf)
            out[-1].append(torch.where(b.trained_T, z.log_softmax(1).gather(1, b.tokens_T[:, None])[:, 0], 0.0))
    return out


def furthest(a: Sequence[Sequence[torch.Tensor]], b: Sequence[Sequence[torch.Tensor]]) -> float:
    return max(float((x.double() - y.double()).abs().max()) for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True))


@pytest.fixture
def units(load) -> list[Unit]:
    return make_units(len(load("llama").model.head_weight_VH))


@pytest.mark.parametrize("tokens", [1, 17, 4096])
def test_logprobs_are_those_of_plain_rows_however_they_are_cut(load, units: list[Unit], tokens: int) -> None:
    """One prompt with its answers side by side, packed with others, or one answer at a time."""
    own = learner(load, inference_tokens=tokens)
    assert furthest(own.logprobs(units), plain(own, units)) < 2e-5
    assert furthest(own.logprobs(units), plain(own, units, supported=False)) > 0.1


@pytest.mark.parametrize("name", ["ppo_clip", "gspo"])
def test_loss_and_gradient_do_not_depend_on_micro_batches(load, units: list[Unit], name) -> None:
    """By the fused loss (of tokens) and by the one of two passes (of sequences); order does not matter either."""
    found = []
    for tokens, given in ((4096, units), (25, units), (4096, units[::-1])):
        own = learner(load, microbatch_tokens=tokens)
        report = own.forward_backward(given, PolicyObjective(POLICY_LOSSES[name], entropy_coef=0.1))
        grads = torch.cat([p.grad.flatten() for _, p in own.model.trainable()])
        found.append((report.metrics["loss"], report.metrics["entropy"], grads))
        assert report.metrics["val/ratio"] == 1.0
        own.discard_gradients()
    whole = found[0]
    for loss, entropy, grads in found[1:]:
        assert loss == pytest.approx(whole[0], abs=1e-5)
        assert entropy == pytest.approx(whole[1], rel=1e-5)
        assert (grads - whole[2]).norm() < 1e-4 * whole[2].norm()


def test_nothing_flows_to_tokens_that_no_support_holds(load) -> None:
    """A head of its own (not tied): the rows of tokens that could nowhere be drawn get no gradient at all, those that could get one."""
    own = learner(load)
    vocab = len(own.model.head_weight_VH)
    (unit,) = make_units(vocab, 1)
    inside = torch.zeros(len(unit.branches[0]), vocab, dtype=torch.bool)
    inside[:, :40] = True
    tokens = unit.branches[0].tokens_T % 40
    cut = replace(unit.branches[0], tokens_T=tokens, support=Support.of(inside, torch.zeros(len(inside), dtype=torch.bool)))
    own.forward_backward([replace(unit, branches=(cut,))], PolicyObjective(entropy_coef=0.1))
    head = own.model.head_weight_VH
    assert head is not own.model.module.get_input_embeddings().weight
    assert bool((head.grad[40:] == 0).all())
    assert bool((head.grad[:40].abs().sum(1) > 0).all())


def test_the_support_is_that_of_sampling_time_after_many_updates(load) -> None:
    """The nucleus moves on while one set of rollouts is trained on: tokens that today's would not hold keep finite log-probabilities over
    the stored support, and ratios and importance weights with them."""
    own = learner(load, lr=3e-2)
    units = [replace(u, branches=tuple(_nucleus(own, u, b) for b in u.branches)) for u in make_units(len(own.model.head_weight_VH))]
    old = own.logprobs(units)
    units = list(with_signal(with_signal(units, "old_logprobs", old), "sampler_logprobs", old))
    objective = PolicyObjective(POLICY_LOSSES["ppo_clip"], correction=Correction("truncate", "token", 3.0))
    for _ in range(6):
        metrics = own.forward_backward(units, objective).metrics
        own.step()
    assert all(abs(v) < 1e6 for v in metrics.values())
    assert metrics["sampling/importance_sampling_ratio/max"] == 1.0  # of the old policy, which is the one that sampled
    assert abs(metrics["val/ratio"] - 1.0) > 1e-2
    now = own.logprobs(units)
    assert furthest(now, plain(own, units)) < 1e-3
    moved = [_nucleus(own, u, b) for u in units for b in u.branches]
    gone = [
        bool(new.support.outside(slice(0, len(b))).gather(1, b.tokens_T[:, None])[b.trained_T].any())
        for new, b in zip(moved, (b for u in units for b in u.branches), strict=True)
    ]
    assert any(gone), "every token still is in today's nucleus: the test shows nothing"
    assert all(bool(torch.isfinite(x).all()) for row in now for x in row)


@torch.no_grad()
def _nucleus(own: LocalLearner, unit: Unit, branch: Branch) -> Branch:
    """The branch with the nucleus (half of the mass) of each place under the present weights; a token outside of it is not trained."""
    ids = torch.cat([unit.prompt.tokens_T, branch.tokens_T])[None]
    z = own.model.logits(own.model.run_plain(ids, torch.ones_like(ids))[0, len(unit.prompt) - 1 : -1]) / TEMPERATURE
    inside = z >= top_p_floor(z, torch.full((len(z),), 0.5, dtype=torch.float64))[:, None]
    drawn = inside.gather(1, branch.tokens_T[:, None])[:, 0]
    return replace(branch, trained_T=branch.trained_T & drawn, support=Support.of(inside, ~inside.any(1)))


def test_adapters_and_their_reference_share_the_supports(load, units: list[Unit]) -> None:
    """Adapters are nothing at first: policy and reference are equal over the supports, and apart from what the whole vocabulary says."""
    own = learner(load, LoraConfig(r=2))
    with own.model.as_reference():
        reference = own.logprobs(units)
    assert furthest(own.logprobs(units), reference) < 1e-6
    assert furthest(reference, plain(own, units)) < 2e-5


def test_packing_takes_supports_of_trained_tokens(units: list[Unit]) -> None:
    batch = pack(units)
    assert batch.support is not None
    whole = slice(0, batch.n_scored)
    rows = [
        torch.zeros(int(b.trained_T.sum()), batch.support.vocab, dtype=torch.bool)
        if b.support is None
        else b.support.outside(slice(0, len(b)))[b.trained_T]
        for u in units
        for b in u.branches
    ]
    assert torch.equal(batch.support.outside(whole), torch.cat(rows))
    assert narrow(batch, slice(2, 5)).support is None
    free = [replace(u, branches=tuple(replace(b, support=None) for b in u.branches)) for u in units]
    assert pack(free).support is None
    short = replace(units[0].branches[0], support=units[0].branches[0].support.take(torch.tensor([0])))
    with pytest.raises(ValueError, match="supports of a branch differ in length"):
        pack([replace(units[0], branches=(short,))])


def test_cached_reference_logprobs_hang_on_the_supports(load, units: list[Unit], tmp_path) -> None:
    own, asked = learner(load), []
    shadow = SimpleNamespace(
        model=own.model, temperature=TEMPERATURE, logprobs=lambda given: asked.append(len(given)) or own.logprobs(given)
    )
    shadow.whole = lambda: shadow
    cache = ReferenceCache(tmp_path, shadow, "digest")  # type: ignore[arg-type]
    first = cache.logprobs(units)
    assert furthest(cache.logprobs(units), first) == 0.0
    assert len(asked) == 1
    other = [replace(u, branches=tuple(replace(b, support=None) for b in u.branches)) for u in units]
    assert furthest(cache.logprobs(other), first) > 0.1
    assert len(asked) == 2
