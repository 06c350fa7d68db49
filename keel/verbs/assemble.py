"""`keel assemble FOLDER`: a vision-language model of a vision tower and a language model, with a projector that is set near the words."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from keel.core.config import Section, load
from keel.core.errors import DataError, UserError
from keel.core.json_lines import lines_of
from keel.models.align import Cells, align_projector
from keel.models.assemble import assemble, read_tower
from keel.models.read_errors import quiet
from keel.runs.fingerprints import file_fingerprint
from keel.verbs.shared.made import make_once

log = logging.getLogger("keel")


class AlignConfig(Section):
    """Setting the projector near the words of what can be seen where; without a file it stays as it was drawn."""

    path: str = Field(default="", description="JSONL of {images: [path], cells: rows of texts over the picture}, as `keel scenes` writes.")
    steps: int = Field(default=400, ge=1, description="Steps of 64 pictures.")
    lr: float = Field(default=2e-3, gt=0, description="Learning rate at the start; it falls as a cosine.")


class AssembleRecipe(Section):
    """Settings of `keel assemble`, given as overrides, or of a stage of a pipeline."""

    vision: str = Field(
        description="Vision tower: folder or Hub id (DINOv2, CLIP, SigLIP), or an .onnx file of DINOv2, package:PKG/FILE too."
    )
    language: str = Field(description="Language model: folder, Hub id, *.gguf, package:PKG/FILE or tiny:ARCH.")
    pixels: int = Field(default=0, ge=0, description="Side of the picture that the tower sees; 0 = its own. Fewer pixels, fewer tokens.")
    feature_layer: int = Field(default=-1, le=-1, description="Which of the tower's layers is read, from the end; LLaVA reads -2 of CLIP.")
    template: Literal["model", "chatml"] = Field(default="model", description="Chat template: the language model's own, or plain ChatML.")
    seed: int = Field(default=0, ge=0, description="Of the projector's first weights and of the order of pictures.")
    align: AlignConfig = Field(default=AlignConfig(), description="How the projector is set before any training.")


def run_assemble(folder: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Write the model's folder, which plain transformers loads; returns its sizes. Raises UserError for a folder that holds something."""
    recipe = load(AssembleRecipe, None, list(overrides))
    out = Path(folder)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{folder} is there already", "name a new folder, or empty this one")
    return _make(recipe, out)


def make_model(recipe: AssembleRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """As a stage of a pipeline: ``@name`` is the model there."""
    read = {f"align.path ({recipe.align.path})": file_fingerprint(Path(recipe.align.path))} if recipe.align.path else {}
    return make_once("assemble", recipe, recipe.seed, path, parent, read, lambda: _make(recipe, path / "final"))


def _make(recipe: AssembleRecipe, out: Path) -> dict[str, Any]:
    pictures = read_cells(Path(recipe.align.path)) if recipe.align.path else []
    tower = read_tower(recipe.vision, recipe.pixels)
    module, processor = assemble(tower, recipe.language, recipe.feature_layer, recipe.template, recipe.seed)
    summary: dict[str, Any] = {"file": str(out), "parameters": sum(p.numel() for p in module.parameters())}
    summary["image_tokens"] = module.config.image_seq_length
    if pictures:
        last, first = align_projector(module, processor, pictures, recipe.align.steps, recipe.align.lr, recipe.seed)
        summary["align"] = {"pictures": len(pictures), "distance_first": round(first, 4), "distance_last": round(last, 4)}
    with quiet():
        module.save_pretrained(out)
        processor.save_pretrained(out)
    return summary


def read_cells(path: Path) -> list[tuple[Image.Image, Cells]]:
    """Pictures with what is where in them. Raises DataError with file and line."""
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"align.path: {path} cannot be read: {error.strerror}") from None
    found: list[tuple[Image.Image, Cells]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_row(path, number, line))
    if not found:
        raise DataError(f"align.path: {path} has no rows")
    return found


def _row(path: Path, number: int, line: str) -> tuple[Image.Image, Cells]:
    where = f"align.path: {path}, line {number}"
    try:
        row = json.loads(line)
        (image,), cells = row["images"], row["cells"]
        even = bool(cells) and all(
            isinstance(r, list) and len(r) == len(cells[0]) > 0 and all(isinstance(t, str) for t in r) for r in cells
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: {type(error).__name__}: {error}", "a row is {images: [path], cells: [[text, ...], ...]}") from None
    if not even:
        raise DataError(f"{where}: cells must be rows of texts, all of one length")
    try:
        with Image.open(path.parent / image) as picture:
            return picture.convert("RGB"), cells
    except OSError as error:
        raise DataError(f"{where}: image {image} cannot be read: {error}") from None
