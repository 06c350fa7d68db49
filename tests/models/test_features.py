"""Where features of images are kept: bounds, files, counts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from keel.core.config import load
from keel.models.config import FeaturesConfig
from keel.models.features import FeatureStore

ROW = 4 * 8  # bytes of what ``rows`` makes


def rows(value: float) -> dict[str, Tensor]:
    return {"rows": torch.full((2, 4), float(value))}


def test_memory_is_bounded_and_the_least_recently_asked_goes() -> None:
    store = FeatureStore(2 * ROW)
    store.keep("a", rows(1))
    store.keep("b", rows(2))
    assert store.take("a") is not None
    store.keep("c", rows(3))
    assert (store.held, store.take("b")) == (2 * ROW, None)
    kept = {key: store.take(key) for key in "ac"}
    assert [float(t["rows"][0, 0]) for t in kept.values() if t is not None] == [1, 3]
    assert (store.hits, store.misses) == (3, 1)


def test_what_is_larger_than_memory_is_not_held() -> None:
    store = FeatureStore(ROW - 1)
    store.keep("a", rows(1))
    assert (store.held, store.take("a")) == (0, None)


def test_a_key_that_is_kept_again_counts_once() -> None:
    store = FeatureStore(10 * ROW)
    store.keep("a", rows(1))
    store.keep("a", rows(2))
    assert store.held == ROW


def test_what_is_kept_is_a_copy() -> None:
    store, given = FeatureStore(ROW), rows(1)
    store.keep("a", given)
    given["rows"].zero_()
    kept = store.take("a")
    assert kept is not None
    assert float(kept["rows"].sum()) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_process_finds_the_files(dtype: torch.dtype, tmp_path: Path) -> None:
    given = {"rows": torch.randn(3, 5).to(dtype), "layer.0": torch.randn(3, 5).to(dtype)}
    FeatureStore(0, tmp_path).keep("abc", given)
    later = FeatureStore(10_000, tmp_path)
    found = later.take("abc")
    assert found is not None
    assert found.keys() == given.keys()
    assert all(torch.equal(found[k], given[k]) and found[k].dtype == dtype for k in given)
    assert later.take("abc") is not None
    assert later.summary() == {"hits": 2, "from_disk": 1, "misses": 0, "mb": 0.0}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_made_again_with_a_word(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FeatureStore(0, tmp_path).keep("abc", rows(1))
    (file,) = tmp_path.rglob("*.safetensors")
    data = file.read_bytes()
    other = b"{}" if damage == "other" else b""
    file.write_bytes({"cut": data[:-3], "flipped": data[:-1] + bytes([data[-1] ^ 1])}.get(damage, other))
    store = FeatureStore(1000, tmp_path)
    with caplog.at_level(logging.WARNING, "keel"):
        assert store.take("abc") is None
    assert f"{file} is not whole" in caplog.text
    store.keep("abc", rows(2))
    found = FeatureStore(0, tmp_path).take("abc")
    assert found is not None
    assert float(found["rows"][0, 0]) == 2


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = FeatureStore(10 * ROW, tmp_path / "file")
    with caplog.at_level(logging.WARNING, "keel"):
        store.keep("a", rows(1))
        store.keep("b", rows(1))
    assert caplog.text.count("cannot be written") == 1
    assert store.take("a") is not None


def test_metrics_are_those_since_the_last_time() -> None:
    store = FeatureStore(ROW)
    assert store.since() == store.summary() == {}
    store.take("a")
    store.keep("a", rows(1))
    store.take("a")
    assert store.since() == {"vision/features_hits": 1.0, "vision/features_misses": 1.0, "vision/features_mb": ROW / 2**20}
    store.take("a")
    assert store.since() == {"vision/features_hits": 1.0, "vision/features_misses": 0.0, "vision/features_mb": ROW / 2**20}
    assert store.summary()["hits"] == 2


def test_the_store_that_settings_ask_for(tmp_path: Path) -> None:
    assert FeatureStore.of(FeaturesConfig()).max_bytes == 2**30
    assert not FeatureStore.of(load(FeaturesConfig, None, ["memory_gib=0"])).on
    store = FeatureStore.of(load(FeaturesConfig, None, ["memory_gib=0", f"folder={tmp_path}"]))
    assert (store.on, store.folder) == (True, tmp_path)
