"""Keel: align language models and vision-language models with what people prefer.

For notebooks and programs the names of ``keel.api`` are here; they are imported when the first of them is asked for, so that a worker or
``keel --help`` starts without torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from keel.core.version import VERSION

if TYPE_CHECKING:
    from keel.api import (
        Policy,
        Prompt,
        Reward,
        algorithm,
        credit,
        imitate,
        load,
        mean_reward,
        sample,
        score,
        update,
    )

# oneDNN keeps a compiled kernel for every shape of a product in bfloat16, a thousand of them unless told otherwise; batches without padding
# have ever new shapes, so memory would grow for many steps.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

__version__ = VERSION

__all__ = [
    "Policy",
    "Prompt",
    "Reward",
    "algorithm",
    "credit",
    "imitate",
    "load",
    "mean_reward",
    "sample",
    "score",
    "update",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'keel' has no attribute {name!r}")
    from keel import api

    return getattr(api, name)
