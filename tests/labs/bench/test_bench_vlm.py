"""The comparison on images: what is counted, the ratios, both sides on little work."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.cli import main
from keel.core.errors import UserError
from keel.data.batching import batch_at
from keel.learner import inference as scoring
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.model import Model
from keel.rollout.decode import MIN_ROWS
from labs.bench import vlm_keel
from labs.bench.vlm import case_summary, counted, works
from labs.bench.vlm_count import Work, row_gflop, tile_gflop
from labs.bench.vlm_model import make_image, make_model
from labs.bench.vlm_work import MODEL, Shape, VisionWork, make_rows, read, write

LITTLE = VisionWork("rl", Shape("demo", depth=12), group=2, completion=4, words=3, threads=1)


def test_the_work_of_a_workload() -> None:
    assert (LITTLE.batch, LITTLE.rows_a_step) == (2, 1)
    pairs = replace(LITTLE, verb="dpo", prompts=3, group=4)
    assert (pairs.batch, pairs.rows_a_step) == (6, 6)
    assert [Shape(depth=d).layers for d in (1, 6, 12)] == [(12, 30), (2, 5), (1, 2)]
    rows = make_rows(pairs)
    assert [row["image"] for row in rows] == list(range(12)), "every row has an image of its own"
    assert all(len(row["prompt"].split()) == 3 and 1 <= len(row["chosen"].split()) <= 3 for row in rows)
    assert [(w.model.geometry, w.verb) for w in works(["demo"], [], LITTLE)] == [("demo", "rl"), ("demo", "dpo")]
    with pytest.raises(UserError, match="there is no 'sft'"):
        works([], ["sft"], LITTLE)


def test_counted_work_by_hand() -> None:
    """Tower 24 against 1, decoder 6 against 2, head 2 against 1: 32 against 4; with 6 times the layers 182 against 19."""
    theirs, ours = {"tower": 24.0, "decoder": 6.0, "head": 2.0}, {"tower": 1.0, "decoder": 2.0, "head": 1.0}
    found = counted(theirs, ours, 6)
    assert found["counted_ratio"] == 8
    assert found["counted_ratio_all_layers"] == pytest.approx(182 / 19)
    assert list(found["share_of_saving"].values()) == pytest.approx([23 / 28, 4 / 28, 1 / 28])


def test_ratios_are_those_of_medians() -> None:
    gflop = {"tower": 1.0, "decoder": 1.0, "head": 1.0}
    base = {"cpu_s": 1.0, "page_faults": 0.0, "loaded_mb": 100.0, "tokens": [8], "parts": {}, "gflop": gflop, "gflop_seen": gflop}
    mine = {**base, "peak_mb": 150.0, "seen_step_s": 0.5, "seen_cpu_s": 0.25}
    keel = [{**mine, "step_s": s} for s in (1.0, 2.0, 30.0)]
    trl = [{**base, "peak_mb": 300.0, "step_s": s, "cpu_s": 6.0} for s in (8.0, 9.0, 7.0)]
    found = case_summary({"keel": keel, "trl": trl}, 6)
    assert (found["ratio_step_s"], found["ratio_cpu_s"], found["ratio_seen_step_s"], found["ratio_seen_cpu_s"]) == (4, 6, 16, 24)
    assert (found["memory_ratio"], found["memory_ratio_above_loaded"]) == (0.5, 0.25)


def decoder_weights(module: Any) -> int:
    return sum(p.numel() for p in module.get_decoder().layers.parameters() if p.dim() == 2)


def test_what_goes_through_a_model_is_counted() -> None:
    """``tiny:llava``: towers of 3 layers, 32 wide, 4 patches; a decoder whose weights are taken from the model."""
    model = load_model("tiny:llava?seed=0", ModelOptions(precision="fp32", device="cpu", train=("language",))).model
    module: Any = model.module
    base = module.base_model
    layer = 4 * 32 * 32 + 2 * 32 * 64
    behind = sum(p.numel() for p in base.multi_modal_projector.parameters() if p.dim() == 2)
    tile = 2 * 4 * 3 * layer + 4 * 4**2 * 32 * 3 + 2 * 4 * behind
    assert tile_gflop(base, base.vision_tower) == pytest.approx(tile / 1e9)
    count = Work()
    count.watch(module, head=True)
    pixels = torch.zeros(2, 3, 28, 28)
    ids = torch.tensor([[module.config.image_token_id] * 4 + [20, 21, 22]] * 2)
    token = 2 * decoder_weights(module) / 1e9
    with torch.no_grad():
        module(input_ids=ids, pixel_values=pixels)
    assert count.take() == pytest.approx({"tower": 2 * tile / 1e9, "decoder": 14 * token, "head": 14 * row_gflop(module)})
    module(input_ids=ids, pixel_values=pixels)
    assert count.take() == pytest.approx({"tower": 2 * tile / 1e9, "decoder": 42 * token, "head": 42 * row_gflop(module)})


def folder_of(work: VisionWork, path: Path) -> list[dict[str, Any]]:
    rows = make_rows(work)
    make_model(work.model, path / MODEL, 0)
    for row in rows:
        make_image(work.model.image, path / f"{row['image']}.png", row["image"])
    write(path, work, rows, [batch_at(len(rows), step, work.rows_a_step, 0) for step in range(work.steps + 1)])
    return rows


@pytest.fixture
def _unpatched(monkeypatch: pytest.MonkeyPatch, proofs: None) -> None:
    """What the side counts with is taken out again."""
    for owner, name in ((scoring, "fused_token_loss"), (scoring, "token_logprobs"), (Model, "logits")):
        monkeypatch.setattr(owner, name, getattr(owner, name))


@pytest.mark.stages
@pytest.mark.usefixtures("_unpatched")
@pytest.mark.parametrize("verb", ["rl", "dpo"])
def test_keels_side(verb: Any, tmp_path: Path) -> None:
    """New images are made once, seen ones not at all; prompts go through the decoder once for their answers."""
    work = replace(LITTLE, verb=verb)
    rows = folder_of(work, tmp_path)
    vlm_keel.main([str(tmp_path), str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    prompt = 1 + 64 + 3 + 1
    answers = [len(rows[read(tmp_path)[2][1][0]][side].split()) + 1 for side in ("chosen", "rejected")] if verb == "dpo" else [4, 4]
    assert found["tokens"] == [2 * prompt + sum(answers)]
    module = load_model(str(tmp_path / MODEL), ModelOptions(precision="fp32")).model.module
    assert found["gflop"]["tower"] == pytest.approx(tile_gflop(module.base_model, module.base_model.vision_tower))
    assert found["gflop_seen"]["tower"] == 0
    assert found["features"]["misses"] == len(rows)
    token = 2 * decoder_weights(module) / 1e9
    passes = 4 * (prompt + sum(answers))  # reference, and gradient with its backward
    sampling = prompt + MIN_ROWS * 3 if verb == "rl" else 0
    assert found["gflop"]["decoder"] == pytest.approx(token * (passes + sampling))


@pytest.mark.stages
@pytest.mark.slow
def test_the_command_alone(tmp_path: Path, proofs: None, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--models demo --verbs dpo --against none --depth 12 --group 2 --completion 4 --words 3 --threads 1"
    assert main(["bench", "vlm", *flags.split(), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["cases"]["demo/dpo"]["keel"]["step_s"] > 0
    assert "| demo/dpo |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"), [("--depth 0", "--depth is 0"), ("--models cat", "there is no 'cat'"), ("--group 1", "--group is 1")]
)
def test_a_mistake_is_told(flags: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "vlm", *flags.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["rl", "dpo"])
def test_trls_side(verb: Any, tmp_path: Path) -> None:
    """The same tokens, every answer with its own image and prompt; where TRL is installed."""
    pytest.importorskip("trl")
    work = replace(LITTLE, verb=verb)
    folder_of(work, tmp_path)
    script = Path(vlm_keel.__file__).with_name("vlm_trl.py")
    subprocess.run([sys.executable, str(script), str(tmp_path), str(tmp_path / "trl.json")], check=True, capture_output=True)
    found = json.loads((tmp_path / "trl.json").read_text())
    module = load_model(str(tmp_path / MODEL), ModelOptions(precision="fp32")).model.module
    tile = tile_gflop(module.base_model, module.base_model.vision_tower)
    assert found["gflop"]["tower"] == pytest.approx(tile * {"rl": 6, "dpo": 4}[verb])
