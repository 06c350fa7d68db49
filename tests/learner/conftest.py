from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from keel.errors import ModelError
from keel.models import prove
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import Loaded, load_model

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts of proofs neither come from the user's cache nor go there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(prove, "_memory", {})


@pytest.fixture
def load() -> Callable[..., Loaded]:
    """``load("llama", lora=..., heads=...)``: a tiny model with weights large enough to show errors, in float32."""

    def make(arch: str, query: str = "std=0.15", lora: LoraConfig | None = None, heads: frozenset = frozenset(), **options) -> Loaded:
        spec = arch if Path(arch).is_dir() else f"tiny:{arch}?{query}"
        try:
            return load_model(spec, ModelOptions(precision="fp32", device="cpu", **options), lora, heads, seed=3, new_heads=True)
        except ModelError as error:
            if "torchvision" in str(error):
                pytest.skip(str(error))
            raise

    return make
