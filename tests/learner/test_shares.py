"""Ranks that read their shares of a folder's weights alone: the learner is that of one process, and weights that are others are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rank_cases import BATCH, CASES, LORA, OPTIM, units
from rank_compare import compare
from rank_pictures import pictured_cases
from safetensors.torch import load_file, save_file

from keel.core.errors import RankError
from keel.learner import remote
from keel.learner.host import Host
from keel.learner.local import LocalLearner
from keel.learner.remote import RankLearner, ask_of
from keel.methods.objectives.policy import PolicyObjective
from keel.models.config import LoraConfig, ModelOptions
from keel.models.frame import Shelf, shelf_of
from keel.models.loading import load_model
from keel.models.model import Model

pytestmark = pytest.mark.stages
OPTIONS = ModelOptions(precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model."""
    root = tmp_path_factory.mktemp("shares")

    def save(arch: str) -> Path:
        if not (root / arch).exists():
            loaded = load_model(f"tiny:{arch}?std=0.15", OPTIONS, seed=3)
            loaded.model.save(root / arch, loaded.tokenizer, loaded.processor)
        return root / arch

    return save


@pytest.fixture(scope="module")
def folder(saved: Callable[[str], Path]) -> Path:
    return saved("gemma2")  # its head is its embedding


def test_images_too(pair: Host, saved: Callable[[str], Path]) -> None:
    case = next(case for case in pictured_cases() if case.name == "images: lora, tower too")
    case = replace(case, name="shares, images", folder=str(saved(case.arch)))
    assert ask_of(case.model()).shelf is not None
    compare(case, pair, steps=1)


@pytest.mark.slow
def test_every_case_from_files(pair: Host, saved: Callable[[str], Path]) -> None:
    """What they do not hold as it is, is loaded whole."""
    whole: set[str] = set()
    for case in (*CASES, *pictured_cases()):
        case = replace(case, name=f"shares, {case.name}", folder=str(saved(case.arch)))
        whole |= set() if ask_of(case.model()).shelf is not None else {case.name}
        compare(case, pair, steps=1)
    assert whole == {"shares, moe", "shares, images: lora and projector"}


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


def test_ranks_take_what_the_shelf_says(pair: Host, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is handed on in place of the file's is the one that they have: they do read by shares, and it is seen."""
    name = "model.layers.1.mlp.up_proj.weight"

    def altered(model: Model, where: Path | None) -> Shelf:
        found = shelf_of(model, where)
        assert found is not None
        weight = model.named_parameters()[name].detach() + 1e-3
        return Shelf({k: v for k, v in found.files.items() if k != name}, {**found.rest, name: weight})

    monkeypatch.setattr(remote, "shelf_of", altered)
    model = load_model(str(folder), OPTIONS, seed=3).model
    with pytest.raises(RankError, match=rf"other weights for the actor than the driver: {name} \(1 in all\)"):
        RankLearner(pair, "actor", model, OPTIM, BATCH, 10, 5)
