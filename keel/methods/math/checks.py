"""What every loss asserts first: rank, dtype and equal shapes. Silent broadcasting is the field's favourite bug."""

from __future__ import annotations

from torch import Tensor


def same_vectors(*tensors: Tensor) -> None:
    """Assert that all are floating vectors of one shape."""
    first = tensors[0]
    for tensor in tensors:
        assert tensor.dim() == 1, f"a vector is needed, not rank {tensor.dim()}"
        assert tensor.is_floating_point(), f"floating point is needed, not {tensor.dtype}"
        assert tensor.shape == first.shape, f"shapes differ: {tuple(tensor.shape)} and {tuple(first.shape)}"
