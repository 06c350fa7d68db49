"""Ranks that read their shares of a folder's weights alone: the learner is that of one process, and weights that are others are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rank_cases import BATCH, CASES, LORA, OPTIM, units
from safetensors.torch import load_file, save_file

from keel.core.errors import RankError
from keel.learner.config import ClusterConfig
from keel.learner.host import Host
from keel.learner.hosts import host_of
from keel.learner.local import LocalLearner
from keel.learner.remote import RankLearner, ask_of
from keel.methods.objectives.policy import PolicyObjective
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.model import Model

pytestmark = pytest.mark.stages
OPTIONS = ModelOptions(precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def pair() -> Iterator[Host]:
    host = host_of(ClusterConfig(ranks=2), torch.device("cpu"))
    yield host
    host.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shares") / "model"
    loaded = load_model("tiny:gemma2?std=0.15", OPTIONS)  # its head is its embedding
    loaded.model.save(path, loaded.tokenizer)
    return path


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_learner_is_that_of_one_process(lora: LoraConfig | None, pair: Host, folder: Path) -> None:
    def model() -> Model:
        return load_model(str(folder), OPTIONS, lora, seed=3).model

    given, objective = units(), PolicyObjective()
    alone, many = LocalLearner(model(), OPTIM, BATCH, 10, 5), RankLearner(pair, f"policy {lora}", model(), OPTIM, BATCH, 10, 5)
    shelf = ask_of(alone.model).shelf
    assert shelf is not None
    assert shelf.files.keys() | shelf.rest.keys() == dict(alone.model.module.named_parameters()).keys()
    assert all(".lora_" in name for name in shelf.rest), "all that is not new is read from the files"
    for one, other in zip(alone.logprobs(given), many.logprobs(given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    gap = many.apart(given, objective)
    assert gap.apart <= 5e-6 * gap.norm_alone
    held = many.refer(None, None, whole=False)  # a second model, read likewise
    for one, other in zip(alone.logprobs(given), held.logprobs(given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    for learner in (alone, many):
        learner.forward_backward(given, objective)
    assert many.step().metrics["grad_norm"] == pytest.approx(alone.step().metrics["grad_norm"], rel=5e-6)
    assert many.whole().model.digest() == many.digest()


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_file_that_changed_meanwhile_is_told(lora: LoraConfig | None, pair: Host, folder: Path, tmp_path: Path) -> None:
    """A frozen weight too: under adapters the digest of what is trained says nothing of it."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    model = load_model(str(copy), OPTIONS, lora, seed=3).model
    weights = load_file(copy / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][0, 0] += 1e-3
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    own = name if lora is None else name.replace(".weight", ".base_layer.weight")
    with pytest.raises(RankError, match=rf"other weights for the critic than the driver: {own} \(1 in all\)"):
        RankLearner(pair, "critic", model, OPTIM, BATCH, 10, 5)
    assert CASES[0].over(pair).digest(), "the ranks go on"
