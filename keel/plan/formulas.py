"""Bytes, each quantity by one formula. ``P`` parameters, ``T`` trained ones, ``b`` bytes of a value in compute precision (2 or 4), ``N``
tokens, ``L`` layers, ``H`` hidden size, ``I`` intermediate size, ``V`` vocabulary, ``W`` ranks among which what is trained is shared out
(1 where every rank has all of it). All are pure functions of numbers; what they leave out is measured (`keel plan --measure`)."""

from __future__ import annotations

from typing import Literal

Optimizer = Literal["adamw", "adamw_8bit", "adafactor"]

FP32 = 4
HEAD_TILE = {"cpu": 8 << 20, "cuda": 64 << 20}  # numbers in a tile of logits, as kernels.tiles has it
MOST_COPIED = 1 << 29  # numbers that decoding on a CPU copies at most, as kernels.decode_products has it


def trained_weights(parameters: float, ranks: int = 1) -> float:
    """``4 P / W``: trained weights are float32, whatever is computed in."""
    return FP32 * parameters / ranks


def frozen_weights(parameters: float, linear: float, value: int, ranks: int = 1) -> float:
    """``(b linear + 4 (P - linear)) / W``: what is not trained keeps its ``linear`` weights in compute precision; tables, norms and head
    stay float32."""
    return (value * linear + FP32 * (parameters - linear)) / ranks


def gradients(trained: float, ranks: int = 1) -> float:
    """``4 T / W``: float32."""
    return FP32 * trained / ranks


def moments(trained: float, optimizer: Optimizer, rows_and_columns: float = 0.0, ranks: int = 1) -> float:
    """AdamW ``8 T / W`` (Kingma & Ba 2015, arXiv:1412.6980: two float32 a weight); in 8 bits ``2 T / W`` (Dettmers et al. 2022,
    arXiv:2110.02861); Adafactor one float32 a row and a column of every matrix (Shazeer & Stern 2018, arXiv:1804.04235)."""
    if optimizer == "adafactor":
        return FP32 * rows_and_columns / ranks
    return (8.0 if optimizer == "adamw" else 2.0) * trained / ranks


def rounded_copies(linear: float, value: int) -> float:
    """``b linear`` in bfloat16: autocast keeps a rounded copy of each trained matrix through a pass, of the whole one where weights are
    shared out too; nothing in float32, or where weights are rounded before they are put together."""
    return value * linear if value < FP32 else 0.0


def activations(tokens: float, layers: int, hidden: int, intermediate: int, value: int, checkpointing: bool = False) -> float:
    """``b N L (10 H + 4 I)``: what a pass keeps for its gradient. With checkpointing ``b N L H`` and one layer's whole. What it is really
    times this, the measured factor ``c`` says (Korthikanti et al. 2022, arXiv:2205.05198, count the same for another layer)."""
    layer = value * tokens * (10 * hidden + 4 * intermediate)
    return value * tokens * layers * hidden + layer if checkpointing else layers * layer


def forward(tokens: float, hidden: int, intermediate: int, value: int) -> float:
    """``b N (4 H + 3 I) + 4 N H``: a pass without gradients holds one layer, and the hidden states in float32."""
    return tokens * (value * (4 * hidden + 3 * intermediate) + FP32 * hidden)


def head_rows(scored: float, vocab: int, device: str) -> float:
    """Rows of a tile of logits: the tile's numbers over V, between 64 and 1024, at most those that are scored."""
    return min(max(1.0, scored), max(64, min(1024, HEAD_TILE[device] // vocab)))


def head_tile(scored: float, vocab: int, hidden: int, value: int, device: str, trained: bool = True) -> float:
    """``rows V (2 x 4 [+ b])`` for a tile with what is made of it, ``4 V H`` for the gradient of a trained head while tiles add to it, and
    in bfloat16 ``b V (H + 2)`` for its copy."""
    low = value if value < FP32 else 0
    return (
        head_rows(scored, vocab, device) * vocab * (2 * FP32 + low)
        + (FP32 * vocab * hidden if trained else 0.0)
        + low * vocab * (hidden + 2)
    )


def cache(rows: float, answer: float, prompts: float, prompt: float, layers: int, numbers: int, value: int) -> float:
    """``v L numbers (rows answer + prompts prompt)``: keys and values, ``numbers`` of a token in a layer; a prompt's stand once for all of
    its answers. ``value`` is 4 on a CPU, whatever is computed in."""
    return value * layers * numbers * (rows * answer + prompts * prompt)


def sampled_logits(rows: float, vocab: int) -> float:
    """``16 rows V``: logits in float32, their probabilities, and both sorted or summed up."""
    return 16.0 * rows * vocab


def decode_copies(linear: float, largest: float, rows: float, steps: float, device: str) -> float:
    """``4 linear`` on a CPU: weights in the order that products of few rows read; none beyond 2^29 numbers, below 16 steps, or for matrices
    that are packed for few rows only."""
    if device != "cpu" or steps < 16 or linear > MOST_COPIED or (largest > 1 << 20 and rows > 24):
        return 0.0
    return FP32 * linear


def pictures(images: float, pixels: float, tokens: float, hidden: int) -> float:
    """``4 (images pixels + tokens H)``: pixels as the processor leaves them, and the features of all image tokens."""
    return FP32 * (images * pixels + tokens * hidden)


def gathers(layer: float, root: float, ranks: int, value: int) -> float:
    """With weights shared out (FSDP2): ``b`` for two whole layers, ``b`` for the root group (tables, head, norm, a trained tower) and ``4``
    for its gradient; 0 on one rank. Here ``b`` is what weights are put together in: 2 with ``cluster.gather=bf16``, else 4."""
    return 0.0 if ranks == 1 else value * (2 * layer + root) + FP32 * root


def saved_copies(parameters: float, linear: float, adapters: bool) -> float:
    """What writing ``final/`` takes: with adapters ``8 linear`` (the products of the adapters, and merged matrices) beside float32 of the
    rest; else nothing beside the weights."""
    return 8.0 * linear + FP32 * (parameters - linear) if adapters else 0.0


def read_again(parameters: float, adapters: bool) -> float:
    """``4 P``: with adapters ``final/`` is read again and compared."""
    return FP32 * parameters if adapters else 0.0
