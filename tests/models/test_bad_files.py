"""Folders that are nearly a model: each one says which file is wrong, in one line, or what was left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keel.core.errors import ModelError

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder."""
    from keel.models.config import ModelOptions
    from keel.models.loading import load_model

    folder = tmp_path_factory.mktemp("saved")
    loaded = load_model("tiny:llama?std=0.15", ModelOptions(precision="fp32", fast_path="off"))
    loaded.model.save(folder, loaded.tokenizer, None)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model-404-offline"))  # words that the Hub's errors hold


def refused(load, folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        load(str(folder))
    assert str(folder) in error.value.message
    assert "\n" not in error.value.message
    assert "Hub" not in error.value.message
    return error.value.message


@pytest.mark.parametrize("kept", [0, 4, 3000])
def test_weights_that_are_cut_off(load, folder: Path, kept: int) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:kept])
    assert WEIGHTS in refused(load, folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{"])
def test_a_file_that_is_no_json(load, folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert f"{name} is no JSON" in refused(load, folder)


CONFIGS = {
    "hidden_size": (128, "config.json does not fit the weights"),
    "vocab_size": (400, "config.json does not fit the weights"),
    "num_hidden_layers": (3, "lacks weights"),
    "num_attention_heads": (3, "not a multiple"),
    "intermediate_size": ("wide", "expected int, got str"),
    "model_type": ("nothing", "`nothing`"),
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_config_that_is_not_the_weights(load, folder: Path, key: str) -> None:
    value, words = CONFIGS[key]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    assert words in refused(load, folder)


def test_weights_that_the_config_has_no_place_for_are_told(load, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    load(str(folder))
    assert "9 weights of the files are not used: model.layers.1." in caplog.text


def test_a_good_folder_has_nothing_to_tell(load, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(str(folder))
    assert "not used" not in caplog.text
