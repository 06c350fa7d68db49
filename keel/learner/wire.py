"""Values as bytes between a driver and the ranks that it started on the same machine. Pickles: both ends are one program of one user, and
nobody else can write into the pipe."""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import ConfigError
from keel.core.python_file import USER_MODULE, load_module


def packed(value: Any) -> bytes:
    """Raises ConfigError for a user's function that another process cannot find."""
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=5).dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"cluster.ranks: this cannot be sent to other processes: {error}",
            "functions of your own must stand at the top of their file; or set cluster.ranks=1",
        ) from None
    return buffer.getvalue()


def unpacked(data: bytes) -> Any:
    """What was packed."""
    return pickle.loads(data)


class _Pickler(pickle.Pickler):
    """Tensors go as their bytes, what a user's file holds by the file's name."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            return _tensor, (plain.reshape(-1).view(torch.uint8).numpy().tobytes(), plain.dtype, tuple(plain.shape))
        module = getattr(value, "__module__", None)
        if isinstance(value, type) or callable(value):
            name = getattr(value, "__qualname__", "")
            if isinstance(module, str) and module.startswith(USER_MODULE) and name and "<" not in name:
                return _users, (str(sys.modules[module].__file__), name)
        return NotImplemented


def _tensor(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not data:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def _users(file: str, name: str) -> Any:
    found: Any = load_module(file)
    for part in name.split("."):
        found = getattr(found, part)
    return found
