"""The object detector's graph: its operations by hand, a small graph from files, and what it refuses. With the real weights where they are
(`KEEL_CENTERNET=.../centernet.json`)."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keel.core.errors import ModelError
from keel.models.detector import _OPERATIONS, COCO, Detector, _same


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def conv(stride: int, padding: str, *fused: str) -> dict[str, Any]:
    steps = ["1", str(stride), str(stride), "1"]
    return {"strides": {"list": {"i": steps}}, "padding": {"s": b64(padding)}, "fused_ops": {"list": {"s": [b64(f) for f in fused]}}}


def test_padding_puts_the_odd_place_after() -> None:
    assert _same(4, 3, 1) == (1, 1)
    assert _same(4, 3, 2) == (0, 1)
    assert _same(5, 3, 2) == (1, 1)
    assert _same(4, 1, 2) == (0, 0)


def test_convolutions_by_hand() -> None:
    row_BHWC = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1)
    kernel = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    same = _OPERATIONS["_FusedConv2D"]([row_BHWC, kernel, torch.tensor([-300.0])], conv(2, "SAME", "BiasAdd", "Relu"))
    assert same.flatten().tolist() == [21.0, 0.0]
    plain = _OPERATIONS["Conv2D"]([row_BHWC, kernel], conv(2, "SAME"))
    assert plain.flatten().tolist() == [321.0, 43.0]  # 1 + 20 + 300, 3 + 40 + nothing
    two_BHWC = torch.tensor([[1.0, 5.0], [2.0, 6.0]]).view(1, 1, 2, 2)
    depthwise = _OPERATIONS["DepthwiseConv2dNative"]([two_BHWC, torch.tensor([2.0, 3.0]).view(1, 1, 2, 1)], conv(1, "VALID"))
    assert depthwise.flatten().tolist() == [2.0, 15.0, 4.0, 18.0]


def test_resizing_starts_at_the_corner() -> None:
    x_BHWC = torch.tensor([0.0, 4.0]).view(1, 1, 2, 1)
    assert _OPERATIONS["ResizeBilinear"]([x_BHWC, torch.tensor([1, 4])], {}).flatten().tolist() == [0.0, 2.0, 4.0, 4.0]


def write(folder: Path, op: str = "Mul") -> Path:
    nodes = [
        {"name": "pixels", "op": "Placeholder"},
        {"name": "half", "op": "Const"},
        {"name": "scaled", "op": op, "input": ["pixels", "half"]},
        {"name": "tower_0/keypoints", "op": "Identity", "input": ["scaled"]},
        {"name": "elsewhere", "op": "Strange", "input": ["scaled"]},
    ]
    weights = [{"name": "half", "shape": [], "dtype": "float32", "quantization": {"dtype": "float16"}}]
    (folder / "net.bin").write_bytes(np.float16(0.5).tobytes())
    graph = {"modelTopology": {"node": nodes}, "weightsManifest": [{"paths": ["net.bin"], "weights": weights}]}
    (folder / "net.json").write_text(json.dumps(graph))
    return folder / "net.json"


def test_a_graph_is_computed_as_far_as_its_output_needs(tmp_path: Path) -> None:
    heat = Detector(write(tmp_path)).heat(torch.tensor([[[2, 4, 6]]]))
    assert heat.tolist() == [[[1.0, 2.0, 3.0]]]


def test_what_is_no_such_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not known: \['Softmax'\]"):
        Detector(write(tmp_path, "Softmax"))
    with pytest.raises(ModelError, match="no graph model"):
        Detector(tmp_path / "gone.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ModelError, match="no graph model"):
        Detector(tmp_path / "list.json")


@pytest.mark.slow
@pytest.mark.skipif("KEEL_CENTERNET" not in os.environ, reason="no weights: KEEL_CENTERNET=.../centernet.json")
def test_the_real_weights_give_scores_of_each_class() -> None:
    from PIL import Image

    scores = Detector(os.environ["KEEL_CENTERNET"]).scores(Image.new("RGB", (300, 200), (120, 120, 120)))
    assert list(scores) == list(COCO)
    assert all(0 <= s < 0.4 for s in scores.values())  # nothing is in a grey picture
