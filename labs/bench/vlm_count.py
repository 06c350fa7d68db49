"""Work by counting: how many images go through the vision tower, how many tokens through the decoder's layers, how many rows through the
head, as both sides' models are really called. Needs torch alone.

One image tile costs 2 P per weight of the tower's layers (P patches), 4 P^2 H a layer for its attention, and the projector; a token 2 per
weight of the decoder's layers; a row 2 V H in the head. A pass with its backward costs three times that, four
times where tiles of the head are made again. The decoder's attention, norms and
the optimizer are not counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

PARTS = ("tower", "decoder", "head")
_G = 1e9


class Work:
    """GFLOP by part since the last ``take``."""

    def __init__(self) -> None:
        self.done: defaultdict[str, float] = defaultdict(float)

    def take(self) -> dict[str, float]:
        found = {part: self.done[part] for part in PARTS}
        self.done.clear()
        return found

    def watch(self, module: Any, head: bool) -> None:
        """Count what goes through ``module``, a vision-language model; ``head``: its head is called as a layer."""
        base, decoder = module.base_model, module.get_decoder()
        tower = next(getattr(base, name) for name in ("vision_model", "vision_tower") if hasattr(base, name))
        tile, token, row = tile_gflop(base, tower), 2 * weights(decoder.layers) / _G, row_gflop(module)

        def through(part: str, cost: float, many: Callable[[Any], int]) -> Any:
            def hook(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                inputs = args[0] if args else next(iter(kwargs.values()))
                trains = torch.is_grad_enabled() and (part != "tower" or any(p.requires_grad for p in layer.parameters()))
                self.done[part] += cost * many(inputs) * (3 if trains else 1)

            return hook

        tower.register_forward_pre_hook(through("tower", tile, lambda x: x.shape[0]), with_kwargs=True)
        decoder.layers[0].register_forward_pre_hook(through("decoder", token, lambda x: x.shape[0] * x.shape[1]), with_kwargs=True)
        if head:
            output = module.get_output_embeddings()
            output.register_forward_pre_hook(through("head", row, lambda x: x.numel() // x.shape[-1]), with_kwargs=True)
            module.register_forward_pre_hook(self._tiled_head(row), with_kwargs=True)

    def _tiled_head(self, cost: float) -> Any:
        """TRL's head in tiles: on a processor all positions but the last of each row; its backward pass makes the tiles again."""

        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if kwargs.get("fused_lm_head"):
                rows, length = kwargs["input_ids"].shape
                self.done["head"] += cost * rows * (length - 1) * (4 if torch.is_grad_enabled() else 1)

        return hook

    def rows(self, module: Any, owner: Any, name: str, passes: Callable[[], int]) -> None:
        """Count the rows of the first argument of ``owner.name`` as rows of the head of ``module``, ``passes()`` times each."""
        function, cost = getattr(owner, name), row_gflop(module)

        def counted(hidden_SH: Any, *args: Any, **kwargs: Any) -> Any:
            self.done["head"] += cost * hidden_SH.shape[0] * passes()
            return function(hidden_SH, *args, **kwargs)

        setattr(owner, name, counted)


def weights(module: Any) -> int:
    """Those of matrices."""
    return sum(p.numel() for p in module.parameters() if p.dim() == 2)


def row_gflop(module: Any) -> float:
    return 2 * module.get_output_embeddings().weight.numel() / _G


def tile_gflop(base: Any, tower: Any) -> float:
    """One image tile through tower and projector."""
    config = tower.config
    layers, hidden = config.num_hidden_layers, config.hidden_size
    if hasattr(base.config, "scale_factor"):
        patches = (config.image_size // config.patch_size) ** 2
        tokens = patches // base.config.scale_factor**2
    else:  # LLaVA: a token a patch
        patches = tokens = int(base.config.image_seq_length)
    inner = max((m for m in tower.modules() if isinstance(m, torch.nn.ModuleList)), key=weights)
    behind = next(getattr(base, name) for name in ("connector", "multi_modal_projector") if hasattr(base, name))
    return (2 * patches * weights(inner) + 4 * patches**2 * hidden * layers + 2 * tokens * weights(behind)) / _G
