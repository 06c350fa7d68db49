"""Values and gradients of TRL's own loss code on the same log-probabilities, in float64. Skipped where TRL is not installed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from keel.learner.packing import pack
from keel.methods.objectives.common import measured
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.types import Branch, Edge, Encoded, Outputs, PairTarget, Unit, UnpairedTarget

pytest.importorskip("trl")
B, T, PROMPT = 4, 5, 2  # pairs, longest answer, prompt tokens
LENGTHS = [5, 2, 3, 4, 1, 5, 4, 2]  # of the chosen answers, then of the rejected ones


def draw(seed: int) -> Tensor:
    """Log-probabilities [2B, PROMPT - 1 + T] as TRL lays them out, 0 outside the answers."""
    values = -torch.randn(2 * B, PROMPT - 1 + T, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).abs() - 0.05
    return values * mask()[:, 1:]


def mask() -> Tensor:
    position = torch.arange(PROMPT + T)
    return torch.stack([((position >= PROMPT) & (position < PROMPT + n)).long() for n in LENGTHS])


def accelerator() -> SimpleNamespace:
    return SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)


def outputs(logps: Tensor) -> SimpleNamespace:
    none = torch.zeros_like(logps)
    return SimpleNamespace(log_probs=logps, entropy=none, mean_logits=none, is_top1=none.bool())


class Metrics(dict):
    def __missing__(self, key: str) -> Metrics | list:
        self[key] = Metrics() if key in ("train", "eval") else []
        return self[key]


def trainer(**settings) -> SimpleNamespace:
    defaults = {
        "accelerator": accelerator(),
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "use_weighting": False,
        "loss_weights": [1.0],
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "label_smoothing": 0.0,
        "_metrics": Metrics(),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**(defaults | settings))


def dpo_of_trl(logps: Tensor, reference: Tensor, loss_type: str, beta: float, **settings) -> Tensor:
    from trl import DPOTrainer

    chosen, rejected = reference.sum(1).chunk(2)
    inputs = {"completion_mask": mask(), "input_ids": torch.ones_like(mask()), "attention_mask": torch.ones_like(mask())}
    stub = trainer(loss_types=[loss_type], beta=beta, **settings)
    return DPOTrainer._compute_loss(
        stub, lambda **_: outputs(logps), inputs | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}, False
    )


def units(reference: Tensor, labels: str = "pairs") -> list[Unit]:
    def branch(row: int) -> Branch:
        n = LENGTHS[row]
        return Branch(
            torch.arange(n), torch.ones(n, dtype=torch.bool), {"ref_logprobs": reference[row, PROMPT - 1 : PROMPT - 1 + n].clone()}
        )

    prompt = Encoded(torch.tensor([1, 2]))
    if labels == "pairs":
        return [Unit(f"u{i}", prompt, (branch(i), branch(B + i)), PairTarget((Edge(0, 1),))) for i in range(B)]
    return [Unit(f"u{i}", prompt, (branch(i),), UnpairedTarget((i < B,))) for i in range(2 * B)]


def ours(logps: Tensor, reference: Tensor, fields: dict) -> Tensor:
    of = units(reference)
    rows = [i for u in range(B) for i in (u, B + u)]
    flat = torch.cat([logps[i, PROMPT - 1 : PROMPT - 1 + LENGTHS[i]] for i in rows])

    def detached(_: object) -> list[tuple[Tensor, ...]]:
        return [tuple(logps[i, PROMPT - 1 : PROMPT - 1 + LENGTHS[i]].detach() for i in (u, B + u)) for u in range(B)]

    objective = measured(preference_objective(ObjectiveConfig(**fields)), of, detached)
    return objective.loss(pack(of), Outputs(flat), objective.counts(of)).loss


DPO = {
    "sigmoid": ({"name": "dpo"}, {"beta": 0.1}),
    "aot, smoothed": ({"name": "aot", "label_smoothing": 0.2}, {"loss_type": "aot", "beta": 0.1, "label_smoothing": 0.2}),
    "hinge": ({"name": "slic"}, {"beta": 0.1}),
    "ipo": ({"name": "ipo"}, {"beta": 0.1}),
    "exo_pair": ({"name": "exo"}, {"beta": 0.1, "label_smoothing": 1e-3}),
    "robust": ({"name": "robust_dpo", "label_smoothing": 0.2}, {"beta": 0.1, "label_smoothing": 0.2}),
    "bco_pair": ({"name": "bco", "answers": {"reward_shift": False}}, {"beta": 0.1}),
    "aot": ({"name": "aot"}, {"beta": 0.1}),
    "sigmoid_norm": ({"name": "dpo", "length_normalised": True}, {"beta": 0.1}),
    "forward KL": ({"name": "dpo", "divergence": "forward_kl"}, {"loss_type": "sigmoid", "beta": 0.1, "f_divergence_type": "forward_kl"}),
    "JS": ({"name": "dpo", "divergence": "js"}, {"loss_type": "sigmoid", "beta": 0.1, "f_divergence_type": "js_divergence"}),
}


def assert_same(mine, theirs, logps: Tensor, tolerance: float = 1e-9) -> None:
    a, b = mine(logps), theirs(logps)
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance)
    gradients = (torch.autograd.grad(x, logps)[0] * mask()[:, 1:] for x in (a, b))  # padding is 0 in TRL's sums, with a gradient
    torch.testing.assert_close(*gradients, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", DPO)
def test_losses_of_the_dpo_trainer(case):
    fields, settings = DPO[case]
    settings = {"loss_type": case} | settings
    logps, reference = draw(0).requires_grad_(), draw(1)
    tolerance = 1e-7 if case == "exo_pair" else 1e-9  # there TRL's label smoothing is a float32 number
    assert_same(lambda x: ours(x, reference, fields), lambda x: dpo_of_trl(x, reference, **settings), logps, tolerance)


def test_kto():
    from trl import KTOTrainer

    logps, reference, other, other_ref = draw(0).requires_grad_(), draw(1), draw(2), draw(3) - 0.3 * mask()[:, 1:]
    labels = torch.arange(2 * B) < B
    batch = {"label": labels, "completion_mask": mask(), "input_ids": torch.ones_like(mask()), "attention_mask": torch.ones_like(mask())}
    batch |= {"ref_logps": reference.sum(1), "ref_KL_logps": other_ref.sum(1), "return_loss": True}
    stub = trainer(beta=0.1, loss_type="kto", calculate_KL=True, desirable_weight=1.0, undesirable_weight=1.5)
    stub._compute_kl_logps = lambda model, batch: other.sum(1)
    theirs = KTOTrainer._compute_loss(stub, lambda **_: outputs(logps), batch, False)

    of = units(reference, "answers")
    objective = preference_objective(ObjectiveConfig(name="kto", answers={"undesirable_weight": 1.5}))
    point = max(0.0, float((other.sum(1) - other_ref.sum(1)).mean()))
    assert point > 0
    flat = torch.cat([logps[i, PROMPT - 1 : PROMPT - 1 + n] for i, n in enumerate(LENGTHS)])
    mine = replace(objective, point=point).loss(pack(of), Outputs(flat), objective.counts(of)).loss
    assert_same(lambda _: mine, lambda _: theirs, logps)


@pytest.mark.parametrize(
    ("fields", "settings", "mean"),
    [
        ({"name": "cpo", "sft_coef": 0}, {"loss_type": "sigmoid", "beta": 0.1}, False),
        ({"name": "cpo", "sft_coef": 0, "label_smoothing": 0.2}, {"loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.2}, False),
        ({"name": "simpo"}, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5}, True),
    ],
)
def test_losses_of_the_cpo_trainer(fields, settings, mean):
    from trl.experimental.cpo import CPOTrainer

    def theirs(logps: Tensor) -> Tensor:
        sums = logps.sum(1) / (torch.tensor(LENGTHS) if mean else 1)
        stub = SimpleNamespace(**({"accelerator": accelerator(), "label_smoothing": 0.0, "alpha": 0.0, "simpo_gamma": 0.0} | settings))
        return CPOTrainer.cpo_loss(stub, *sums.chunk(2))[0].mean()

    assert_same(lambda x: ours(x, draw(1), fields), theirs, draw(0).requires_grad_())


def test_orpo():
    from trl.experimental.orpo import ORPOTrainer

    def theirs(logps: Tensor) -> Tensor:  # TRL computes the odds in float32
        stub = SimpleNamespace(accelerator=accelerator(), beta=0.1)
        return -ORPOTrainer.odds_ratio_loss(stub, *(logps.sum(1) / torch.tensor(LENGTHS)).chunk(2))[0].mean()

    assert_same(lambda x: ours(x, draw(1), {"name": "orpo", "sft_coef": 0}), theirs, draw(0).requires_grad_(), 1e-6)
