"""How far two computations of one log-probability may be apart."""

from __future__ import annotations

import torch


def nats(compute: torch.dtype) -> float:
    """Tolerance of single log-probabilities, in nats: rounding in bf16 is of the order of 0.1 on unlikely tokens."""
    return 1e-3 if compute == torch.float32 else 0.5
