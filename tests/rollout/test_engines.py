"""The sampler that a recipe asks for: ours, or a user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from keel.core.config import load as load_config
from keel.core.errors import ConfigError, UserError
from keel.models.loading import Loaded
from keel.rollout.config import RolloutConfig
from keel.rollout.engines import make_sampler
from keel.rollout.local import LocalSampler
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.rl.recipe import RLRecipe

OWN = """
class Around:
    def __init__(self, local, tokenizer):
        self.local, self.tokenizer = local, tokenizer
        self.submit, self.collect, self.load = local.submit, local.collect, local.load

def alone(local):
    return local

def broken(local, tokenizer):
    raise KeyError("answers")

def half(local, tokenizer):
    class Half:
        load = None
        def submit(self, requests): ...
    return Half()
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return str(path)


def test_the_local_one_is_the_default(load: Callable[..., Loaded]) -> None:
    assert isinstance(make_sampler(load("llama"), str, RolloutConfig(), 32), LocalSampler)


def test_ones_own_gets_the_local_one_and_the_tokenizer(load: Callable[..., Loaded], file: str) -> None:
    loaded = load("llama")
    sampler = make_sampler(loaded, str, RolloutConfig(engine=f"{file}:Around", max_rows=3), 32)
    local = sampler.local  # type: ignore[attr-defined]
    assert isinstance(local, LocalSampler)
    assert local.model is loaded.model
    assert sampler.tokenizer is loaded.tokenizer  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nobody", "has no function 'nobody'"),
        ("alone", "alone cannot be called as it will be: too many positional arguments"),
        ("broken", "broken failed: KeyError: 'answers'"),
        ("half", "half: Half has no collect and no load"),
    ],
)
def test_what_is_no_sampler_is_refused(load: Callable[..., Loaded], file: str, name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        make_sampler(load("llama"), str, RolloutConfig(engine=f"{file}:{name}"), 32)


def test_settings_of_ones_own(file: str) -> None:
    with pytest.raises(ConfigError, match=r"'lokal' is none of: local, server, vllm; nor is it FILE.py:NAME"):
        load_config(RLRecipe, Path("recipes/tiny_grpo.yaml"), ["sampler.engine=lokal"])
    with pytest.raises(ConfigError, match=r"sampler.vllm.cache_gb would have no effect with engine=mine.py:S"):
        load_config(RLRecipe, Path("recipes/tiny_grpo.yaml"), ["sampler.engine=mine.py:S", "sampler.vllm.cache_gb=2"])
    rl = load_config(RLRecipe, Path("recipes/tiny_grpo.yaml"), [f"sampler.engine={file}:Around", "sampling.top_p=0.9"])
    assert [(f.key, str(f.name)) for f in rl.files() if f.key == "sampler.engine"] == [("sampler.engine", file)]
    pairs = load_config(PreferRecipe, Path("recipes/tiny_online_dpo.yaml"), [f"online.sampler.engine={file}:Around"])
    assert [str(f.name) for f in pairs.files() if f.key == "online.sampler.engine"] == [file]
