"""How export and release read models: as the run that made them did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import peft

from keel.core.config import checked
from keel.core.errors import ModelError, UserError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.evaluate.reward_measures import ScoredLabel
from keel.models.config import ModelOptions
from keel.models.ensemble import read_manifest
from keel.models.heads import stored_spec
from keel.models.loading import Loaded, load_model
from keel.release.candidate import Judge, Open, Reader
from keel.release.probes import QUESTIONS
from keel.release.source import Source
from keel.render.config import RenderConfig
from keel.verbs.shared.labels import reward_units
from keel.verbs.shared.scored_labels import judge
from keel.verbs.shared.session import renderer_of

OPTIONS = ModelOptions(precision="fp32", device="cpu", fast_path="auto")


def opener(source: Source) -> Open:
    """Reads a model in float32, with the render settings of the run that ``source`` came from; a reward model with its head. What is read
    is frozen."""
    config = checked(RenderConfig, source.render)

    def open_model(spec: str) -> Reader:
        path = Path(spec).expanduser()
        scores = path.is_dir() and (stored_spec(path) is not None or read_manifest(path) is not None)
        loaded = load_model(spec, OPTIONS, heads=frozenset({"score"}) if scores else frozenset())
        loaded.model.freeze()
        return Reader(loaded, renderer_of(loaded, config))

    return open_model


def open_adapter(base: str, folder: Path) -> Loaded:
    """A base with an adapter, put together by PEFT alone. Raises ModelError where PEFT cannot."""
    loaded = load_model(base, OPTIONS)
    try:
        joined = peft.PeftModel.from_pretrained(loaded.model.module, str(folder))  # pyright: ignore[reportArgumentType]
        merged = joined.merge_and_unload()
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"PEFT cannot put the adapter in {folder} on {base}: {error}", "export it with --to merged") from error
    assert merged is loaded.model.module, "adapters are merged in place"
    loaded.model.freeze()
    return loaded


def questions_of(source: Source, file: str) -> list[str]:
    """What a model is asked to see how far its written form is: the file's prompts, those that its run showed, or Keel's own."""
    if not file:
        return source.questions() or list(QUESTIONS)
    found = [p.last_user_text for p in load_data(DataConfig(path=file, limit=32)).prompts()]
    if not any(found):
        raise UserError(f"{file}: no prompt in it", "give a file of prompts")
    return [text for text in found if text]


def judged(reader: Reader, path: str, limit: int) -> Sequence[ScoredLabel]:
    """A reward model's scores of labelled data."""
    units, _ = reward_units(reader.renderer, load_data(DataConfig(path=path, limit=limit)))
    return judge(reader.inference, units)


JUDGE: Judge = judged
