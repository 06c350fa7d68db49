"""Several reward models in one folder: whole models, or adapters and heads on one base that is in memory once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import peft
from transformers import PreTrainedModel

from keel.core.errors import ModelError
from keel.models import heads
from keel.models.heads import HeadSpec, ScoreHead
from keel.models.model import Model
from keel.models.read_errors import quiet
from keel.runs.durable import write_atomic
from keel.runs.fingerprints import ENSEMBLE_FILE as FILE
from keel.runs.fingerprints import model_fingerprint


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its folder beside the manifest, the mean of its scores (its own zero), and how often it is right on held-out labels."""

    folder: str
    mean: float = 0.0
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an ensemble's folder holds. ``base`` with its fingerprint (of a folder or file) and ``head`` are those of adapters."""

    kind: Literal["models", "adapters"]
    members: tuple[Member, ...]
    base: str = ""
    base_fingerprint: str = ""
    head: HeadSpec | None = None

    def write(self, folder: Path) -> None:
        """Write it into the folder."""
        found = {"schema": 1, **asdict(self), "head": self.head.to_json() if self.head is not None else None}
        write_atomic(folder / FILE, (json.dumps(found, indent=2) + "\n").encode())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an ensemble's folder; None for any other folder. Raises ModelError for one that cannot be read."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        members = tuple(Member(**m) for m in found["members"])
        head = HeadSpec.from_json(found["head"]) if found["head"] else None
        return Manifest(found["kind"], members, found["base"], found["base_fingerprint"], head)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is not an ensemble that this version knows: {error}", "train it again with keel reward") from None


def fingerprint_of_base(spec: str) -> str:
    """The fingerprint of a base that is a folder or a file; empty for one that is not here."""
    path = Path(spec).expanduser()
    return model_fingerprint(path) if path.exists() else ""


def together(models: Sequence[Model], manifest: Manifest) -> Model:
    """One model that stands for all: the first, with all of them as its members."""
    specs = [m.score_head.spec for m in models if m.score_head is not None]
    assert len(specs) == len(models), "members have score heads"
    if any((s.dimensions, s.weights, s.units) != (specs[0].dimensions, specs[0].weights, specs[0].units) for s in specs):
        raise ModelError("the members of this ensemble score by different dimensions", "train them from one recipe")
    own_zero = specs[0].open_zero
    members = tuple(replace(m, offset=part.mean if own_zero else 0.0) for m, part in zip(models, manifest.members, strict=True))
    for member in members:
        member.media = members[0].media
    return replace(members[0], members=members, offset=0.0)


def with_adapters(base: Model, folder: Path, manifest: Manifest) -> list[Model]:
    """Views of one base, one for each adapter with its head. Raises ModelError for files that are missing."""
    assert manifest.head is not None, "adapters have a head"
    module = cast(PreTrainedModel, base.module)
    wrapped: Any = None
    found: list[Model] = []
    for part in manifest.members:
        where = folder / part.folder
        try:
            with quiet():
                if wrapped is None:
                    wrapped = peft.PeftModel.from_pretrained(cast(Any, module), str(where), adapter_name=part.folder)
                else:
                    wrapped.load_adapter(str(where), adapter_name=part.folder)
        except (OSError, ValueError) as error:
            raise ModelError(f"{where}: the adapter cannot be read: {error}", "the folder of an ensemble is moved as a whole") from None
        head = ScoreHead(manifest.head, module.config.get_text_config().hidden_size, 0)
        if not heads.load_heads(where, {"score": head}):
            raise ModelError(f"{where} has no score head", "the folder of an ensemble is moved as a whole")
        found.append(replace(base, score_head=head.to(base.device), peft_model=wrapped, adapter=part.folder))
    for p in module.parameters():
        p.requires_grad_(False)
    return found
