"""How close to the machine a step is: the least matrix work that the step must do, at the rate this machine does it.

Only products with weights count. With ``B`` the body's weights (those of its linear layers that a token goes through), ``V H`` the head,
``P`` prompt tokens (once a prompt), ``S`` scored tokens and ``N = P + ` all tokens of answers`, in units of 2 multiply-adds a weight:

    rl       sample  B N + V H S,  reference  B N + V H S (with a KL),  train  3 (B N + V H S) an epoch
             with a critic  values  B N,  train  3 B N an epoch
    dpo      reference  B N + V H S,  train  3 (B N + V H S)
    sft      train  3 (B N + V H S)
    reward   train  3 B N

A training pass is three products a weight: forward, the gradient of the input, the gradient of the weight. Not counted: attention scores,
norms, softmax, the optimizer, and whatever is computed twice. Each product is timed by itself at the shape that a step has it in (rows of a
micro-batch, rows decoded side by side, a tile of the head), and the best time counts. So the floor cannot be reached, and the share is
rather too low than too high.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from keel.kernels.narrow import output_layer
from keel.learner.config import BatchConfig
from keel.models.model import Model
from labs.bench.rule import rule_of
from labs.bench.workload import Workload

Row = Mapping[str, Sequence[int]]
Kind = Literal["forward", "train"]  # train: forward and both gradients
_HEAD_ROWS = 256  # rows of a tile of the head
_SECONDS, _MOST_TRIES = 0.15, 50  # what a shape is timed for


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix [out, in] that ``share`` of the tokens go through (less than 1 for an expert among several)."""

    out: int
    into: int
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Product:
    """``rows`` tokens through a matrix [out, in]."""

    kind: Kind
    rows: int
    out: int
    into: int

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.out * self.into * (3 if self.kind == "train" else 1)


def body_weights(model: Model) -> list[Weight]:
    """The matrices of the decoder's layers. Experts are one stacked parameter: as many of them as a token goes through count."""
    head = output_layer(model.module)
    found = [
        Weight(layer.out_features, layer.in_features)
        for layer in model.module.modules()
        if isinstance(layer, nn.Linear) and layer is not head and layer not in model.heads.values()
    ]
    chosen = getattr(model.text_config, "num_experts_per_tok", 0)
    stacked = [p for p in model.module.parameters() if p.dim() == 3]
    return found + [Weight(p.shape[1], p.shape[2], chosen / p.shape[0]) for p in stacked for _ in range(p.shape[0])]


def products(work: Workload, weights: Sequence[Weight], head: tuple[int, int], rows: Sequence[Row]) -> Counter[Product]:
    """The least products of one step over ``rows``, each with how many of it there are (a part of one, where rows are not filled)."""
    found: Counter[Product] = Counter()
    prompt, answers, scored = sizes(work, rows)
    tokens = prompt + answers

    def add(kind: Kind, n: float, side_by_side: int, parts: Sequence[Weight]) -> None:
        """``n`` tokens through these matrices, ``side_by_side`` at a time."""
        for w in parts:
            at_once = max(1, round(side_by_side * w.share))
            found[Product(kind, at_once, w.out, w.into)] += n * w.share / at_once  # type: ignore[assignment]

    def through(kind: Kind, with_head: bool, times: int = 1) -> None:
        """Passes over all tokens, and the head over the scored ones."""
        add(kind, times * tokens, min(tokens, BatchConfig().microbatch_tokens), weights)
        if with_head:
            add(kind, times * scored, min(scored, _HEAD_ROWS), [Weight(*head)])

    if work.verb == "rl":
        rule = rule_of(work)
        add("forward", prompt, prompt, weights)
        add("forward", answers, work.batch, [*weights, Weight(*head)])
        if rule.needs_reference:
            through("forward", with_head=True)
        if rule.needs_critic:
            through("forward", with_head=False)
            through("train", with_head=False, times=rule.epochs)
        through("train", with_head=True, times=rule.epochs)
        return found
    if work.verb == "dpo":
        through("forward", with_head=True)
    through("train", with_head=work.verb != "reward")
    return found


def sizes(work: Workload, rows: Sequence[Row]) -> tuple[int, int, int]:
    """Tokens of prompts, tokens of answers, and scored tokens of a step."""
    if work.verb == "sft":
        lengths = [len(r["text"]) for r in rows]
        return len(rows), sum(lengths) - len(rows), sum(lengths) - len(rows)
    prompt = sum(len(r["prompt"]) for r in rows)
    answers = work.batch * work.completion if work.verb == "rl" else sum(len(r["chosen"]) + len(r["rejected"]) for r in rows)
    return prompt, answers, answers


def floor_seconds(model: Model, work: Workload, steps: Sequence[Sequence[Row]]) -> list[float]:
    """For each step the seconds that its least work takes on this machine, in the workload's precision and threads."""
    weights, head = body_weights(model), tuple(model.head_weight_VH.shape)
    wanted = [products(work, weights, (head[0], head[1]), rows) for rows in steps]
    dtype = getattr(torch, work.model.dtype)
    seconds = {p: best_seconds(p, dtype, model.device) for p in set().union(*wanted)}
    return [sum(n * seconds[p] for p, n in step.items()) for step in wanted]


def best_seconds(product: Product, dtype: torch.dtype, device: torch.device) -> float:
    """The best of several timings of a product; a forward one either way round."""
    x = torch.randn(product.rows, product.into, device=device).to(dtype)
    weight = torch.randn(product.out, product.into, device=device).to(dtype)
    gradient = torch.randn(product.rows, product.out, device=device).to(dtype)
    forward = min(_best(lambda: torch.mm(x, weight.t()), device), _best(lambda: torch.mm(weight, x.t()), device))
    if product.kind == "forward":
        return forward
    return forward + _best(lambda: torch.mm(gradient, weight), device) + _best(lambda: torch.mm(gradient.t(), x), device)


def _best(product: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < _MOST_TRIES):
        started = time.perf_counter()
        product()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
