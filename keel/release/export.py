"""Writing a model, and reading again what was written: what cannot be read, or is another model than it was made from, is not left
there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from keel.core.errors import ModelError
from keel.models.heads import FILE as HEADS_FILE
from keel.models.loading import Loaded
from keel.release.candidate import Open, Reader
from keel.release.config import ExportConfig
from keel.release.gguf.checked import Checked, check_in_llama_cpp
from keel.release.gguf.write import refuse_unwritable, write_gguf
from keel.release.probes import Probe, distance, probes_of, score_distance
from keel.release.source import Source
from keel.runs.fingerprints import model_fingerprint, tensors_digest

NEAR = 0.01  # nats: a file of all 32 bits that is further off is another model
_NOT_WEIGHTS = (HEADS_FILE,)
GGUF_FILE = "model.gguf"

OpenAdapter = Callable[[str, Path], Loaded]  # (base, adapter's folder) -> the model as PEFT puts it together


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what is known of it. ``spec`` loads it (an adapter: nothing does without its base)."""

    spec: str
    record: dict[str, Any]


def export(
    source: Source, target: Path, config: ExportConfig, open_model: Open, open_adapter: OpenAdapter, questions: Sequence[str]
) -> Exported:
    """Write the model of ``source`` into the folder ``target``, which is new, read it again and compare. Raises ModelError, and leaves
    nothing, where the two differ by more than the precision explains."""
    if config.to == "gguf":
        refuse_unwritable(source.folder)
    reader = open_model(str(source.folder))
    scores = reader.loaded.model.score_head is not None
    if scores and config.to != "merged":
        raise ModelError(f"{source.folder} is a reward model: its head has no place in {config.to}", "export it with --to merged")
    probes = probes_of(reader, questions)
    target.mkdir(parents=True)
    try:
        match config.to:
            case "merged":
                written, found = _merged(source, target, config.dtype, reader, open_model, probes)
            case "adapter":
                written, found = _adapter(source, target, reader, open_adapter, probes)
            case "gguf":
                written, found = _gguf(source, target, config, reader, open_model, probes)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    facts = {
        "to": config.to,
        "precision": config.quant if config.to == "gguf" else config.dtype if config.to == "merged" else "fp32",
        "source": str(source.folder),
        "source_fingerprint": model_fingerprint(source.folder),
        "fingerprint": model_fingerprint(written),
        "weights_digest": weights_digest(reader.loaded),
        "template_sha256": reader.renderer.template_hash,
        "questions": len(probes),
    }
    return Exported(str(written), facts | found)


def weights_digest(loaded: Loaded) -> str:
    """Of all weights as they are in memory, by name."""
    return tensors_digest(sorted(_weights(loaded).items()))


def _weights(loaded: Loaded) -> dict[str, torch.Tensor]:
    """All weights by name but a language-model head that the files lack, which is random and not used."""
    named = loaded.model.weights()
    if not loaded.model.lm_head:
        head = loaded.model.head_weight_VH
        named = {name: w for name, w in named.items() if w.data_ptr() != head.data_ptr()}
    return named


def _compare(reader: Reader, other: Loaded, probes: Sequence[Probe]) -> dict[str, float]:
    model, theirs = reader.loaded.model, other.model
    theirs.transform = model.transform
    return score_distance(model, theirs, probes) if model.score_head is not None else distance(model, theirs, probes).to_json()


# ------------------------------------------------------------------------------------------------------------------------- merged


def _merged(
    source: Source, target: Path, dtype: str, reader: Reader, open_model: Open, probes: Sequence[Probe]
) -> tuple[Path, dict[str, Any]]:
    """All 32 bits: the files as they are. 16 bits: the same with rounded weights; what rounding costs is measured."""
    for file in sorted(p for p in source.folder.iterdir() if p.is_file()):
        if dtype == "bf16" and file.suffix == ".safetensors" and file.name not in _NOT_WEIGHTS:
            _round_file(file, target / file.name)
        else:
            shutil.copyfile(file, target / file.name)
    if dtype == "bf16":
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        (target / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}, indent=2) + "\n", encoding="utf-8")
    again = open_model(str(target)).loaded
    _same_weights(reader.loaded, again, str(target), rounded=dtype == "bf16")
    return target, _compare(reader, again, probes)


def _round_file(file: Path, target: Path) -> None:
    with safe_open(file, "pt") as tensors:
        rounded = {k: t.to(torch.bfloat16) if (t := tensors.get_tensor(k)).is_floating_point() else t for k in tensors.keys()}  # noqa: SIM118
        save_file(rounded, target, metadata=tensors.metadata() or {"format": "pt"})


def _same_weights(own: Loaded, again: Loaded, where: str, rounded: bool = False) -> None:
    """Raise ModelError unless what was read again is what was meant, to the bit."""
    before, after = _weights(own), _weights(again)
    heads = {name for name in before if name.startswith(("score_head.", "value_head."))}
    wrong = sorted(before.keys() ^ after.keys()) or [
        k
        for k in before
        if not torch.equal(before[k].bfloat16().float() if rounded and k not in heads else before[k].float(), after[k].float())
    ]
    if rounded and heads:  # a plain head is saved inside the classifier, and rounded with it
        wrong = [k for k in wrong if k not in heads or not torch.equal(before[k].bfloat16().float(), after[k].float())]
    if wrong:
        raise ModelError(f"{where} was read again with other weights: {', '.join(wrong[:3])}", "nothing was left there; try another disk")


# ------------------------------------------------------------------------------------------------------------------------ adapter


def _adapter(
    source: Source, target: Path, reader: Reader, open_adapter: OpenAdapter, probes: Sequence[Probe]
) -> tuple[Path, dict[str, Any]]:
    """The adapter's own files. They are put on the base by PEFT and compared with the merged model."""
    if source.adapter is None:
        what = "its training changed all weights" if source.run is not None else "no run made it"
        raise ModelError(f"{source.name} has no adapter: {what}", "train with lora, or export it with --to merged")
    for file in sorted(p for p in source.adapter.iterdir() if p.is_file()):
        shutil.copyfile(file, target / file.name)
    found = _compare(reader, open_adapter(source.base, target), probes)
    if found["logprob_difference"] > NEAR:
        raise ModelError(
            f"the adapter on {source.base} is {found['logprob_difference']:.3g} nats from {source.folder}",
            "the base is not the one that it was trained on; export it with --to merged",
        )
    return target, {"base": source.base, **found}


# --------------------------------------------------------------------------------------------------------------------------- gguf


def _gguf(
    source: Source, target: Path, config: ExportConfig, reader: Reader, open_model: Open, probes: Sequence[Probe]
) -> tuple[Path, dict[str, Any]]:
    file = target / GGUF_FILE
    facts = {"source_fingerprint": model_fingerprint(source.folder), "weights_digest": weights_digest(reader.loaded)}
    write_gguf(source.folder, file, config.quant, facts)
    again = open_model(str(file))
    if config.quant == "f32":
        _same_weights(reader.loaded, again.loaded, str(file))
    if again.renderer.template_hash != reader.renderer.template_hash:
        raise ModelError(f"{file} was read again with another chat template", "this is a fault of Keel's: please tell")
    found: dict[str, Any] = _compare(reader, again.loaded, probes)
    checked = check_in_llama_cpp(file, reader, probes)
    same = _same_ids(reader, again, probes)
    if checked is None and not same:
        raise ModelError(
            "transformers reads this tokenizer otherwise from the GGUF file, and without llama.cpp nobody can say who is right",
            "pip install 'keel-align[llamacpp]', and export it again",
        )
    if checked is not None:
        _judge(checked, config.quant, file)
        found["llama_cpp"] = checked.to_json()
    if config.quant == "f32" and found["logprob_difference"] > NEAR:
        raise ModelError(f"{file} is {found['logprob_difference']:.3g} nats from {source.folder}", "this is a fault of Keel's: please tell")
    return file, found | {"same_ids": same}


def _same_ids(reader: Reader, again: Reader, probes: Sequence[Probe]) -> bool:
    texts = [reader.loaded.tokenizer.decode(p.ids_L) for p in probes]
    return all(reader.renderer.codec.encode(t) == again.renderer.codec.encode(t) for t in texts)


def _judge(checked: Checked, quant: str, file: Path) -> None:
    """Raise ModelError where llama.cpp reads another model than was written."""
    if not checked.same_ids or not checked.same_template:
        what = "other ids" if not checked.same_ids else "another chat template"
        raise ModelError(f"llama.cpp reads {what} in {file}: {checked.example}", "this is a fault of Keel's: please tell")
    if quant == "f32" and checked.logprob_difference > NEAR:
        raise ModelError(f"in llama.cpp {file} is {checked.logprob_difference:.3g} nats off", "this is a fault of Keel's: please tell")
