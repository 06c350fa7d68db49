"""Interpolation of weights: what `keel merge` writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from keel.cli import main
from keel.core.errors import UserError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.verbs.merge import run_merge

A, B = "tiny:llama?seed=1", "tiny:llama?seed=2"


def weights(spec: str) -> dict[str, torch.Tensor]:
    return load_model(spec, ModelOptions(precision="fp32", device="cpu")).model.weights()


def test_weights_in_between(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", A, B, "--weights", "0.75", "0.25", "--out", str(tmp_path / "m"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    a, b, merged = weights(A), weights(B), weights(str(tmp_path / "m"))
    assert merged.keys() == a.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.75 * a[name] + 0.25 * b[name], rtol=0, atol=1e-6)
    assert [part["weight"] for part in summary["models"]] == [0.75, 0.25]
    assert summary["distance_to_first"] == pytest.approx(0.25 * summary["models"][1]["distance"], rel=1e-5)
    assert summary["models"][1]["distance"] > 0


def test_equal_weights_and_beyond(tmp_path: Path) -> None:
    run_merge([A, B, B], str(tmp_path / "equal"))
    name, a = next(iter(weights(A).items()))
    b = weights(B)[name]
    torch.testing.assert_close(weights(str(tmp_path / "equal"))[name], (a + 2 * b) / 3, rtol=0, atol=1e-6)
    run_merge([A, B], str(tmp_path / "beyond"), [1.5, -0.5])
    torch.testing.assert_close(weights(str(tmp_path / "beyond"))[name], 1.5 * a - 0.5 * b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("models", "shares", "reason"),
    [
        ([A], None, "1 model to merge"),
        ([A, B], [1.0], "1 weights for 2 models"),
        ([A, B], [0.5, 0.6], "the weights add up to 1.1"),
        ([A, "tiny:qwen2"], None, "are not of one architecture"),
    ],
)
def test_what_cannot_be_merged_is_refused(tmp_path: Path, models: list[str], shares: list[float] | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        run_merge(models, str(tmp_path / "m"), shares)
    assert not (tmp_path / "m").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(UserError, match="holds something already"):
        run_merge([A, B], str(tmp_path))
