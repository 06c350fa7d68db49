"""The learner: results independent of how a batch is cut, exact resume, schedules, guards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from keel.core.errors import ConfigError, DivergedError, ModelError
from keel.kernels.logit_transform import LogitTransform
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.learner.optim import PACE, TIE, decay_groups, learning_rate, make_optimizer
from keel.loops.online import with_signal
from keel.methods.objectives.policy import PolicyObjective
from keel.models.config import LoraConfig
from keel.models.heads import HeadSpec
from keel.types import Batch, Branch, Counts, Divergence, Encoded, LossOutput, Need, Outputs, Unit


@dataclass(frozen=True)
class Probe:
    """A loss that uses everything it asks for: weighted log-probabilities, entropy, squared values, squared scores."""

    needs: frozenset[Need] = frozenset({"logprobs"})
    token_local: bool = False
    couples_branches: bool = False
    factor: float = 1.0

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {
            "token": float(sum(int(b.trained_T.sum()) for u in units for b in u.branches)),
            "branch": float(sum(len(u.branches) for u in units)),
        }

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        loss = torch.zeros(())
        if outputs.logprobs_S is not None:
            loss = loss - (batch.signals["weight"] * outputs.logprobs_S).sum() / counts["token"]
        if outputs.entropy_S is not None:
            loss = loss - 0.3 * outputs.entropy_S.sum() / counts["token"]
        if outputs.values_S is not None:
            loss = loss + (outputs.values_S - 1).square().sum() / counts["token"]
        if outputs.scores_R is not None:
            loss = loss + (outputs.scores_R - 1).square().sum() / counts["branch"]
        logp = outputs.logprobs_S.detach() if outputs.logprobs_S is not None else torch.zeros(1)
        return LossOutput(self.factor * loss, {"logp": (float(logp.sum()), float(len(logp)))})


ALL: frozenset[Need] = frozenset({"logprobs", "entropy", "values", "scores"})
TOKEN: frozenset[Need] = frozenset({"logprobs", "entropy", "values"})


def make_units(n: int = 8, branches: int = 3) -> list[Unit]:
    g = torch.Generator().manual_seed(0)

    def branch(length: int) -> Branch:
        trained = torch.ones(length, dtype=torch.bool)
        trained[1::4] = False
        return Branch(torch.randint(10, 500, (length,), generator=g), trained, {"weight": torch.randn(length, generator=g)})

    lengths = [[3 + (5 * i + 7 * j) % 11 for j in range(branches)] for i in range(n)]
    return [
        Unit(f"u{i}", Encoded(torch.randint(10, 500, (4 + i % 5,), generator=g)), tuple(branch(k) for k in row))
        for i, row in enumerate(lengths)
    ]


def gradients(learner: LocalLearner) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for _, p in learner.model.trainable()])


def learner_of(load, arch: str = "llama", microbatch: int = 4096, optim: OptimConfig | None = None, **options) -> LocalLearner:
    model = load(arch, **options).model
    return LocalLearner(
        model, optim or OptimConfig(lr=1e-3), BatchConfig(microbatch_tokens=microbatch, inference_tokens=microbatch), 10, seed=5
    )


def close(got: Tensor, expected: Tensor, tolerance: float = 5e-6) -> bool:
    return ((got - expected).norm() / expected.norm()).item() < tolerance


@pytest.mark.parametrize("arch", ["llama", "gemma2", "qwen3_moe"])
@pytest.mark.parametrize("token_local", [False, True])
def test_one_times_eight_is_eight_times_one(load, arch: str, token_local: bool) -> None:
    objective = Probe(TOKEN if token_local else ALL, token_local)
    heads = frozenset({"score", "value"})
    units = make_units()
    whole, parts = (learner_of(load, arch, size, heads=heads) for size in (4096, 1))
    a, b = whole.forward_backward(units, objective), parts.forward_backward(units, objective)
    assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], rel=1e-5)
    assert a.metrics["logp"] == pytest.approx(b.metrics["logp"], rel=1e-5)
    assert close(gradients(parts), gradients(whole))
    assert a.n_tokens == sum(u.n_tokens for u in units)


def test_token_local_path_equals_the_general_one(load, monkeypatch) -> None:
    from keel.kernels import tiles

    monkeypatch.setattr(tiles, "_TILE_CPU", 1)  # several tiles
    fused, general = (learner_of(load, heads=frozenset({"value"})) for _ in range(2))
    units = make_units()
    a = fused.forward_backward(units, Probe(TOKEN, True))
    b = general.forward_backward(units, Probe(TOKEN, False))
    assert a.metrics == pytest.approx(b.metrics, rel=1e-5)
    assert close(gradients(fused), gradients(general))


def test_accumulating_two_calls_equals_their_sum(load) -> None:
    units = make_units()
    learner = learner_of(load)
    learner.forward_backward(units[:4], Probe())
    first = gradients(learner).clone()
    learner.forward_backward(units[4:], Probe())
    both = gradients(learner)
    other = learner_of(load)
    other.forward_backward(units[4:], Probe())
    assert close(both, first + gradients(other))


def test_couples_stay_whole(load) -> None:
    seen: list[list[int]] = []

    class Watch(Probe):
        def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
            seen.append([len(u.branches) for u in batch.units])
            return super().loss(batch, outputs, counts)

    learner = learner_of(load, microbatch=1)
    learner.forward_backward(make_units(4), Watch(couples_branches=True))
    assert seen == [[3]] * 4


def test_logprobs_values_and_scores_by_unit(load) -> None:
    units = make_units()
    learner, cut = (learner_of(load, microbatch=size, heads=frozenset({"score", "value"})) for size in (4096, 1))
    torch.nn.init.ones_(learner.model.value_head.weight)
    torch.nn.init.ones_(cut.model.value_head.weight)
    for unit, logprobs, values, scores in zip(units, learner.logprobs(units), learner.values(units), learner.scores(units), strict=True):
        for i, branch in enumerate(unit.branches):
            row = torch.cat([unit.prompt.tokens_T, branch.tokens_T])[None]
            with learner.model.own_attention() as module, torch.no_grad():
                out = module(input_ids=row, output_hidden_states=True)
            hidden = out.hidden_states[-1][0]
            source = slice(len(unit.prompt) - 1, -1)
            expected = out.logits[0].log_softmax(-1)[source].gather(1, branch.tokens_T[:, None])[:, 0]
            assert close(logprobs[i], expected * branch.trained_T)
            assert close(values[i], hidden[source].sum(1) * branch.trained_T, 1e-5)
            assert close(scores[i], (learner.model.score_head.weight[0] @ hidden[-1]).detach(), 1e-5)
            assert not logprobs[i].requires_grad
    for whole, parts in ((learner.logprobs(units), cut.logprobs(units)), (learner.values(units), cut.values(units))):
        assert all(close(p, w, 1e-5) for a, b in zip(whole, parts, strict=True) for w, p in zip(a, b, strict=True))
    assert all(close(p, w, 1e-5) for w, p in zip(learner.scores(units), cut.scores(units), strict=True))


def test_what_members_and_dimensions_say_hangs_on_no_cut(load) -> None:
    """The one score is the mean over members; a unit that is split keeps each branch's numbers in its place."""
    units, spec = make_units(), HeadSpec(members=3, dimensions=("a", "b"), weights=(0.25, 0.75))
    model = load("llama", heads=frozenset({"score"}), score=spec).model
    whole, cut = (LocalInference(model, BatchConfig(inference_tokens=size)) for size in (4096, 1))
    judged, scores, dimensions = whole.judgements(units), whole.scores(units), whole.dimensions(units)
    assert all(members_GM.std(1).min() > 0 for members_GM, _ in judged), "members that agree would show nothing"
    for (members_GM, _), score_G, dimensions_GD in zip(judged, scores, dimensions, strict=True):
        assert members_GM.shape == (3, 3)
        assert close(score_G, members_GM.mean(1))
        assert close(score_G, dimensions_GD @ torch.tensor([0.25, 0.75]))
    for found, expected in ((cut.scores(units), scores), (cut.dimensions(units), dimensions)):
        assert all(close(f, e, 1e-5) for f, e in zip(found, expected, strict=True))
    assert all(close(f[0], e[0], 1e-5) for f, e in zip(cut.judgements(units), judged, strict=True))


def test_members_of_an_ensemble_have_one_zero(load) -> None:
    """Each member's own mean is taken off before they are averaged: 1 of the first, -2 of the second."""
    first, second = (load("llama", query=f"std={std}", heads=frozenset({"score"})).model for std in ("0.15", "0.1"))
    both = replace(first, members=(replace(first, offset=1.0), replace(second, offset=-2.0)), offset=0.0)
    units = make_units(3)
    raw = [LocalInference(m, BatchConfig()).scores(units) for m in (first, second)]
    for found, a, b in zip(LocalInference(both, BatchConfig()).scores(units), *raw, strict=True):
        assert close(found, ((a - 1.0) + (b + 2.0)) / 2)


@dataclass(frozen=True)
class Apart(Probe):
    """Notes the KL to the reference at every scored token, and whether a gradient is wanted."""

    needs: frozenset[Need] = frozenset({"logprobs", "ref_kl"})
    seen: list[Tensor] = field(default_factory=list)
    gradients: list[bool] = field(default_factory=list)

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        self.seen.append(outputs.ref_kl_S.detach())
        self.gradients.append(torch.is_grad_enabled())
        return super().loss(batch, outputs, counts)


def test_an_adapted_model_is_its_own_reference_with_its_adapters_off(load) -> None:
    """And no gradient is formed where nothing is trained."""
    learner, units = learner_of(load, lora=LoraConfig(r=4)), make_units(2)
    objective = Apart()
    learner.forward_backward(units, objective)
    assert max(float(kl.abs().max()) for kl in objective.seen) < 1e-5, "before training they are one"
    learner.discard_gradients()
    generator = torch.Generator().manual_seed(0)
    for _, parameter in learner.model.trainable():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    moved, beside = Apart(), Apart()
    learner.evaluate(units, moved)
    assert min(float(kl.mean()) for kl in moved.seen) > 1e-3
    learner.reference = load("llama").model.freeze()
    learner.evaluate(units, beside)
    assert all(close(a, b, 1e-4) for a, b in zip(moved.seen, beside.seen, strict=True))
    assert (objective.gradients, set(moved.gradients)) == ([True], {False})


def test_an_adapted_reference_has_the_rows_of_added_tokens_that_it_started_from(load, tmp_path) -> None:
    """Those rows of the head are trained beside the adapters: value and gradient are taken from the old ones, after they were put back."""
    loaded = load("llama")
    loaded.tokenizer.add_tokens(["<new>"])
    loaded.model.save(tmp_path, loaded.tokenizer)
    own, units = learner_of(load, str(tmp_path), lora=LoraConfig(r=4)), make_units(2)
    units = with_signal(units, "advantages", [tuple(torch.zeros(len(b)) for b in u.branches) for u in units])
    start = LocalInference(load(str(tmp_path)).model.freeze(), BatchConfig()).model
    generator, objective = torch.Generator().manual_seed(0), PolicyObjective(kl_coef=1.0, divergence=Divergence("jsd"))
    for name, parameter in own.model.trainable():
        rows = parameter if "lora" in name else parameter[-1]
        rows.data.add_(0.3 * torch.randn(rows.shape, generator=generator))
    found = []
    for reference in (None, start):
        own.reference = reference
        apart = own.forward_backward(units, objective).metrics["objective/divergence"]
        found.append((apart, gradients(own)))
        own.discard_gradients()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert close(found[0][1], found[1][1], 1e-5)


@pytest.mark.parametrize("by", [Divergence("forward_kl"), Divergence("reverse_kl"), Divergence("jsd", 0.3)], ids=lambda by: by.kind)
def test_whole_distributions_beside_a_teacher_of_another_size(load, by: Divergence) -> None:
    """Loss and gradient against a dense computation through the modules, however a batch is cut. The teacher is wider, its head is padded
    beyond the policy's tokens, which says nothing."""
    teacher, temperature = load("llama", "std=0.15&seed=2&hidden=96").model.freeze(), 0.8
    narrow = teacher.module.lm_head
    teacher.module.lm_head = torch.nn.Linear(narrow.in_features, narrow.out_features + 5, bias=False).requires_grad_(False)
    teacher.module.lm_head.weight[: narrow.out_features] = narrow.weight
    units = with_signal(make_units(4), "advantages", [tuple(torch.zeros(len(b)) for b in u.branches) for u in make_units(4)])
    objective = PolicyObjective(kl_coef=0.7, divergence=by)
    found = []
    for microbatch in (4096, 20):
        own = learner_of(load, microbatch=microbatch)
        own.reference, own.temperature = teacher, temperature
        report = own.forward_backward(units, objective)
        found.append((report.metrics["loss"], report.metrics["objective/divergence"], gradients(own)))
    own.discard_gradients()
    total, n = torch.zeros((), dtype=torch.float64), 0
    for unit, branch in ((u, b) for u in units for b in u.branches):
        ids = torch.cat([unit.prompt.tokens_T, branch.tokens_T])[None]
        logits = [m.logits(m.run_plain(ids, torch.ones_like(ids))[0, len(unit.prompt) - 1 : -1]) for m in (own.model, teacher)]
        log_p, log_q = (z[branch.trained_T, : narrow.out_features].double().div(temperature).log_softmax(1) for z in logits)
        m = torch.logaddexp(log_q + math.log(by.beta), log_p + math.log(1 - by.beta))
        q_m, p_m = (log_q.exp() * (log_q - m)).sum(), (log_p.exp() * (log_p - m)).sum()
        dense = {"forward_kl": (log_q.exp() * (log_q - log_p)).sum(), "reverse_kl": (log_p.exp() * (log_p - log_q)).sum()}
        total, n = total + dense.get(by.kind, by.beta * q_m + (1 - by.beta) * p_m), n + len(log_p)
    (0.7 * total / n).backward()
    for loss, apart, grads in found:
        assert loss == pytest.approx(0.7 * total.item() / n, rel=1e-5)
        assert apart == pytest.approx(total.item() / n, rel=1e-5)
        assert close(grads, gradients(own), 2e-5)


def test_a_token_that_the_policy_never_says_is_none_of_the_teacher_s(load) -> None:
    """Placeholders of images may be banned for one of the two alone."""
    units = with_signal(make_units(2), "advantages", [tuple(torch.zeros(len(b)) for b in u.branches) for u in make_units(2)])
    found = []
    for banned in ((3,), (), (3, 5)):  # of the teacher
        own, teacher = learner_of(load), load("llama", "std=0.15&seed=2").model.freeze()
        own.model.transform, teacher.transform = LogitTransform(banned=(3,)), LogitTransform(banned=banned)
        own.reference = teacher
        report = own.forward_backward(units, PolicyObjective(kl_coef=1.0, divergence=Divergence("reverse_kl")))
        found.append((report.metrics["objective/divergence"], gradients(own)))
    for apart, grads in found[1:]:
        assert apart == found[0][0] < 100
        assert torch.equal(grads, found[0][1])


def test_temperature(load) -> None:
    units = make_units(1, 1)
    model = load("llama").model
    warm = LocalLearner(model, OptimConfig(), BatchConfig(), 1, 0, temperature=2.0).logprobs(units)[0][0]
    row = torch.cat([units[0].prompt.tokens_T, units[0].branches[0].tokens_T])[None]
    with model.own_attention() as module, torch.no_grad():
        logp = (module(input_ids=row).logits[0] / 2.0).log_softmax(-1)[len(units[0].prompt) - 1 : -1]
    branch = units[0].branches[0]
    assert close(warm, logp.gather(1, branch.tokens_T[:, None])[:, 0] * branch.trained_T)


def test_evaluate_changes_nothing_and_agrees(load) -> None:
    learner = learner_of(load)
    before = learner.model.digest()
    evaluated = learner.evaluate(make_units(), Probe(token_local=True))
    trained = learner.forward_backward(make_units(), Probe(token_local=True))
    assert evaluated.metrics == pytest.approx(trained.metrics, rel=1e-5)
    assert learner.model.digest() == before


def test_units_without_trained_tokens_are_harmless(load) -> None:
    unit = make_units(1)[0]
    masked = replace(unit, branches=tuple(replace(b, trained_T=torch.zeros_like(b.trained_T)) for b in unit.branches))
    learner = learner_of(load)
    assert learner.forward_backward([masked], Probe()).metrics == {"loss": 0.0}
    assert [t.sum().item() for t in learner.logprobs([masked])[0]] == [0.0, 0.0, 0.0]
    before = learner.model.digest()
    assert learner.step().metrics["grad_norm"] == 0.0
    assert learner.model.digest() == before


# ------------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, dropout=0.3)])
def test_resume_is_bit_identical(load, name: str, lora: LoraConfig | None) -> None:
    optim = OptimConfig(name=name, lr=1e-3, weight_decay=0.1, warmup_steps=2)

    def fresh() -> LocalLearner:
        return learner_of(load, "qwen2", 60, optim, lora=lora, heads=frozenset({"value"}))

    def run(learner: LocalLearner, steps: int) -> None:
        for _ in range(steps):
            learner.forward_backward(make_units(), Probe(TOKEN, True))
            learner.step()

    undisturbed = fresh()
    run(undisturbed, 2)
    tensors, state = undisturbed.state()
    tensors = {k: v.clone() for k, v in tensors.items()}
    run(undisturbed, 2)
    resumed = fresh()
    resumed.load_state(tensors, state)
    assert resumed.lr == learning_rate(2, 10, optim, optim.lr * (10 if lora else 1))
    run(resumed, 2)
    assert resumed.model.digest() == undisturbed.model.digest()
    again, _ = resumed.state()
    expected, _ = undisturbed.state()
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[k], expected[k]) for k in again)


def test_state_is_refused_between_microbatches(load) -> None:
    learner = learner_of(load)
    learner.forward_backward(make_units(2), Probe())
    with pytest.raises(ValueError, match="between optimizer steps"):
        learner.state()


def test_dropout_is_drawn_from_seed_and_step_alone(load) -> None:
    def grads(disturb: bool, seed: int, steps: int = 0) -> Tensor:
        model = load("llama", lora=LoraConfig(r=4, dropout=0.5)).model
        learner = LocalLearner(model, OptimConfig(), BatchConfig(), 10, seed)
        for _ in range(steps):
            learner.step()  # without gradients: the weights stay
        if disturb:
            torch.rand(17)
        before = torch.get_rng_state()
        learner.forward_backward(make_units(), Probe(token_local=True))
        assert torch.equal(before, torch.get_rng_state())
        assert learner.logprobs(make_units())[0][0].equal(learner.logprobs(make_units())[0][0])  # off
        return gradients(learner)

    assert torch.equal(grads(False, 1), grads(True, 1))
    assert not torch.equal(grads(False, 1), grads(False, 2))
    assert not close(grads(False, 1), grads(False, 1, steps=1), 1e-3), "every step drops out others"


def test_routers_are_balanced_once_however_many_micro_batches_there_are(load) -> None:
    """The same unit once, and three times in a micro-batch each: one mean, of which each has a share of a third."""
    (one,) = make_units(1)
    found, told = [], []
    for units in ([one], [replace(one, unit_id=f"copy{i}") for i in range(3)]):
        learner = learner_of(load, "qwen3_moe", microbatch=one.n_tokens)
        learner.model.router = replace(learner.model.router, coefficient=0.5)
        told.append(learner.forward_backward(units, Probe(factor=0.0)).metrics["aux_loss"])
        found.append(gradients(learner))
    assert found[0].norm() > 0
    assert close(found[1], found[0], 1e-4)
    assert told[1] == pytest.approx(told[0], rel=1e-5)


def test_every_micro_batch_has_its_own_dropout(load) -> None:
    """The same unit twice, once a micro-batch: were both drawn alike, the mean gradient would be that of one."""
    (one,) = make_units(1)
    both = [one, replace(one, unit_id="again")]
    found = []
    for of in ([one], both):
        learner = learner_of(load, microbatch=one.n_tokens, lora=LoraConfig(r=4, dropout=0.5))
        learner.forward_backward(of, Probe())
        found.append(gradients(learner))
    assert not close(found[1], found[0], 1e-3)


def test_no_dropout_where_log_probabilities_were_recorded(load) -> None:
    """Losses that compare with them see the very numbers that were recorded: the first ratio is 1."""
    learner = LocalLearner(
        load("llama", lora=LoraConfig(r=4, dropout=0.5)).model, OptimConfig(lr=1e-2, warmup_steps=0), BatchConfig(), 10, 1
    )
    learner.forward_backward(make_units(), Probe(token_local=True))
    learner.step()  # adapters start at zero, where dropout does not show
    units = make_units()
    dropped = learner.forward_backward(units, Probe()).metrics["logp"]
    for signal in ("ref_logprobs", "sampler_logprobs"):
        recorded = with_signal(units, signal, learner.logprobs(units))
        whole = learner.evaluate(recorded, Probe()).metrics["logp"]
        assert learner.forward_backward(recorded, Probe()).metrics["logp"] == pytest.approx(whole, abs=1e-6)
        assert dropped != pytest.approx(whole, abs=1e-3)


# ------------------------------------------------------------------------------------------------------- schedules and guards


def test_adafactor_moves_at_the_rate_that_is_given(load) -> None:
    """As far as AdamW does, whatever the size of the weights; and it learns as fast."""

    def run(name: Literal["adamw", "adafactor"]) -> tuple[float, float, float]:
        learner = learner_of(load, optim=OptimConfig(name=name, lr=2e-3, schedule="constant", warmup_steps=0))
        units = [replace(u, branches=tuple(replace(b, signals={"weight": torch.ones(len(b))}) for b in u.branches)) for u in make_units(4)]
        start = [p.detach().clone() for _, p in learner.model.trainable()]
        losses: list[float] = []
        for _ in range(8):
            losses.append(learner.forward_backward(units, Probe(token_local=True)).metrics["loss"])
            learner.step()
        matrices = [
            (p.detach() - q).abs().mean() for (n, p), q in zip(learner.model.trainable(), start, strict=True) if n.endswith("proj.weight")
        ]
        return losses[0], losses[-1], float(torch.stack(matrices).mean())

    start, adam_end, adam_moved = run("adamw")
    _, end, moved = run("adafactor")
    assert adam_moved / 2 < moved < adam_moved * 2
    assert start - end > 0.5 * (start - adam_end) > 0.25


def test_adafactor_refuses_what_it_does_not_read() -> None:
    for setting in ({"betas": (0.9, 0.95)}, {"eps": 1e-6}):
        with pytest.raises(ValueError, match=f"adafactor does not read {next(iter(setting))}"):
            OptimConfig(name="adafactor", **setting)
        OptimConfig(name="adamw", **setting)
    OptimConfig.model_validate(OptimConfig(name="adafactor").model_dump())  # a stored recipe names every setting


def test_learning_rate_by_hand() -> None:
    cosine = OptimConfig(lr=1.0, warmup_steps=2, min_lr_ratio=0.2)
    rates = [learning_rate(s, 6, cosine, 1.0) for s in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.2 + 0.8 * (0.5 + math.sqrt(2) / 4), 0.6, 0.2 + 0.8 * (0.5 - math.sqrt(2) / 4), 0.2])
    linear = OptimConfig(lr=1.0, schedule="linear", warmup_ratio=0.0)
    assert [learning_rate(s, 4, linear, 2.0) for s in range(5)] == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    constant = OptimConfig(lr=1.0, schedule="constant", warmup_ratio=0.25)
    assert [learning_rate(s, 8, constant, 1.0) for s in range(4)] == pytest.approx([0.5, 1.0, 1.0, 1.0])


def test_the_rate_follows_the_plan_that_the_loop_tells(load) -> None:
    """Steps count by themselves; a loop that leaves planned updates out says where it is, and a resumed learner is there too."""
    optim = OptimConfig(lr=1.0, schedule="linear", warmup_ratio=0.0)
    learner = learner_of(load, optim=optim)
    rates = [learner.step().metrics["lr"] for _ in range(2)]
    learner.progress = 7
    rates.append(learner.step().metrics["lr"])
    assert rates == pytest.approx([1.0, 0.9, 0.3])
    resumed = learner_of(load, optim=optim)
    resumed.load_state(*learner.state())
    assert resumed.lr == learner.lr == pytest.approx(0.2)
    tensors, state = learner.state()
    del state["progress"]  # as written before there was a plan: the steps made
    resumed.load_state(tensors, state)
    assert resumed.lr == pytest.approx(0.7)


def test_a_rate_that_a_phase_sets_has_the_factor_of_adapters_and_of_emergencies(load) -> None:
    for lora, factor in ((None, 1.0), (LoraConfig(r=2), 10.0)):
        learner = learner_of(load, lora=lora)
        learner.lr_now, learner.lr_scale = 2e-4, 0.5
        assert learner.lr == pytest.approx(1e-4 * factor)


def test_the_weight_of_a_tie_moves_at_its_own_pace(load) -> None:
    """AdamW's first step is as long as the rate, whatever the gradient: of the tie thirty times as long."""
    optim = OptimConfig(lr=1e-3, warmup_steps=0, schedule="constant", weight_decay=0.0)
    model = load("llama", heads=frozenset({"score"}), score=HeadSpec(ties=True)).model
    learner = LocalLearner(model, optim, BatchConfig(), 10, 0)
    before = {name: p.detach().clone() for name, p in model.trainable()}
    assert TIE in before
    for _, p in model.trainable():
        p.grad = torch.ones_like(p)
    assert learner.step().metrics["lr"] == pytest.approx(1e-3)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in model.trainable()}
    assert moved.pop(TIE) == pytest.approx(PACE * 1e-3, rel=1e-3)
    assert max(moved.values()) == pytest.approx(1e-3, rel=1e-2)


def test_norms_biases_and_embeddings_do_not_decay(load) -> None:
    model = load("qwen2").model
    named = model.trainable()
    embedding = model.module.get_input_embeddings().weight
    decayed, plain = decay_groups(named, {id(embedding)}, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    names = {id(p): n for n, p in named}
    assert {names[id(p)].rsplit(".", 2)[-2] for p in decayed["params"]} == {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] or "embed" in names[id(p)] for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(named)


def test_clipping(load) -> None:
    free, clipped = (learner_of(load, optim=OptimConfig(clip_norm=c, name="adafactor")) for c in (None, 0.01))
    for learner in (free, clipped):
        learner.forward_backward(make_units(), Probe(token_local=True))
    norm = gradients(clipped).norm().item()
    scaled: list[Tensor] = []
    clipped._optimizer.register_step_pre_hook(lambda *_: scaled.append(gradients(clipped).clone()))
    assert clipped.step().metrics["grad_norm"] == pytest.approx(norm, rel=1e-5) == pytest.approx(free.step().metrics["grad_norm"], rel=1e-5)
    assert norm > 0.01
    assert scaled[0].norm().item() == pytest.approx(0.01, rel=1e-3)


def test_non_finite_steps_are_skipped_counted_and_end_the_run(load) -> None:
    learner = learner_of(load)
    before = learner.model.digest()
    bad, good = Probe(factor=math.nan), Probe()
    for _ in range(2):
        learner.forward_backward(make_units(1), bad)
        report = learner.step()
        assert report.metrics["skipped_steps"] == 1.0
    assert learner.model.digest() == before
    learner.forward_backward(make_units(1), good)
    assert learner.step().metrics["skipped_steps"] == 0.0  # the count starts again
    assert learner.model.digest() != before
    for _ in range(2):
        learner.forward_backward(make_units(1), bad)
        learner.step()
    learner.forward_backward(make_units(1), bad)
    with pytest.raises(DivergedError, match="3 steps in a row"):
        learner.step()


def test_steps_in_a_row_are_counted_on_after_a_resume(load) -> None:
    first, second = learner_of(load), learner_of(load)
    for _ in range(2):
        first.forward_backward(make_units(1), Probe(factor=math.inf))
        first.step()
    second.load_state(*first.state())
    second.forward_backward(make_units(1), Probe(factor=math.nan))
    with pytest.raises(DivergedError, match="3 steps in a row"):
        second.step()


def test_lora_learning_rate_and_what_is_trained(load) -> None:
    optim = OptimConfig(lr=1e-4, warmup_ratio=0.0)
    assert learner_of(load, optim=optim).lr == pytest.approx(1e-4)
    assert learner_of(load, optim=optim, lora=LoraConfig(r=2)).lr == pytest.approx(1e-3)


def test_refusals(load, monkeypatch) -> None:
    with pytest.raises(ModelError, match="nothing to train"):
        LocalLearner(load("llama").model.frozen_copy(), OptimConfig(), BatchConfig(), 1, 0)
    learner = learner_of(load)
    with pytest.raises(ModelError, match="no value head"):
        learner.values(make_units(1))
    with pytest.raises(ModelError, match="no score head"):
        learner.scores(make_units(1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="bitsandbytes"):
        make_optimizer(learner.model.trainable(), set(), OptimConfig(name="adamw_8bit"))


def test_divergences_are_those_of_whole_distributions(load) -> None:
    """Behind prompts of the same lengths, against log_softmax by hand; one by one and together; 0 behind the same prompt."""
    learner = learner_of(load)
    units = make_units(3)
    others = [replace(u, prompt=replace(u.prompt, tokens_T=u.prompt.tokens_T.flip(0) + 3)) for u in units]
    found = learner.divergences(units, others)
    for u, o, row in zip(units, others, found, strict=True):
        for i, b in enumerate(u.branches):
            logs = []
            for prompt in (u.prompt, o.prompt):
                tokens_1L = torch.cat([prompt.tokens_T, b.tokens_T])[None]
                hidden_LH = learner.model.run_plain(tokens_1L, torch.ones_like(tokens_1L))[0]
                logs.append(learner.model.logits(hidden_LH[len(prompt) - 1 : -1]).double().log_softmax(-1))
            kl_T = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
            assert torch.allclose(row[i].double(), torch.where(b.trained_T, kl_T, 0.0).detach(), atol=1e-5)
    with learner.plain_passes(1):
        split = learner.divergences(units, others)
    assert all(torch.allclose(a, b, atol=1e-5) for x, y in zip(found, split, strict=True) for a, b in zip(x, y, strict=True))
    assert max(float(t.abs().max()) for row in learner.divergences(units, units) for t in row) < 1e-6
    with pytest.raises(AssertionError, match="same lengths"):
        learner.divergences(units, [*units[1:], units[0]])


def test_information_is_what_is_missing_to_the_uniform(load) -> None:
    learner, units = learner_of(load), make_units(2)
    entropies = []
    for u in units:
        for b in u.branches:
            tokens_1L = torch.cat([u.prompt.tokens_T, b.tokens_T])[None]
            hidden_LH = learner.model.run_plain(tokens_1L, torch.ones_like(tokens_1L))[0]
            log_LV = learner.model.logits(hidden_LH[len(u.prompt) - 1 : -1]).double().log_softmax(-1)
            entropies.append(-(log_LV.exp() * log_LV).sum(-1)[b.trained_T])
    size = len(learner.model.head_weight_VH)
    assert learner.information(units) == pytest.approx(math.log(size) - float(torch.cat(entropies).mean().detach()), abs=1e-5)
    with torch.no_grad():
        learner.model.head_weight_VH.zero_()
    assert learner.information(units) == pytest.approx(0.0, abs=1e-5)
