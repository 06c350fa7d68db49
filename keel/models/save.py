"""Writing models so that others load them: plain transformers, PEFT, vLLM."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from keel.core.errors import ModelError
from keel.kernels.narrow import input_table, output_layer
from keel.models import heads, lora
from keel.models.read_errors import quiet

if TYPE_CHECKING:
    from keel.models.model import Model


@contextmanager
def _into(folder: Path) -> Iterator[None]:
    """Files are written into ``folder`` here; whatever the libraries raise when the disk is full becomes one ModelError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:  # tokenizers raises Exception itself, with the number of the system's error in its text
        if not isinstance(error, OSError | SafetensorError) and "os error" not in str(error):
            raise
        hint = "free some space and start the same command again: the last checkpoint stands"
        raise ModelError(f"{folder}: the model cannot be written: {error}", hint) from error


def save_model(model: Model, folder: Path, tokenizer: Any, processor: Any) -> None:
    """See ``Model.save``."""
    with _into(folder):
        _save_model(model, folder, tokenizer, processor)


def _save_model(model: Model, folder: Path, tokenizer: Any, processor: Any) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    state = lora.merged_state(model.module, model.compute_dtype)
    if not model.lm_head:
        head = output_layer(model.module).weight
        random = {name.replace(".base_layer.", ".") for name, p in model.module.named_parameters() if p is head}
        state = {name: t for name, t in state.items() if name not in random}
    score = model.score_head
    classifier = _classifier(model, state, tokenizer) if score is not None and score.spec.plain else None
    with quiet():
        if classifier is not None:
            classifier.save_pretrained(folder)
        else:
            _write(model.module, state, folder, {} if score is None else {heads.CONFIG_KEY: score.spec.to_json()})
            if not model.heads:
                generation_config(model, tokenizer).save_pretrained(folder)
    whole = classifier is not None and score is not None and not score.spec.ties  # nothing of the head is left to write
    heads.save_heads(folder, {k: v for k, v in model.heads.items() if not (whole and k == "score")})
    (processor or tokenizer).save_pretrained(folder)
    if processor is not None:
        tokenizer.save_pretrained(folder)


def saved_names(folder: Path) -> tuple[str, ...]:
    """Names of the tensors in a saved folder."""
    names: list[str] = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            names += tensors.keys()
    return tuple(names)


def as_saved(model: Model, names: Sequence[str]) -> dict[str, Tensor]:
    """What ``save_model`` would write now under these names, without writing it: adapters merged, float32. Raises ModelError when one of
    the names is not among the model's."""
    state = revert_weight_conversion(model.module, lora.merged_state(model.module, model.compute_dtype))
    if missing := sorted(set(names) - state.keys()):
        raise ModelError(f"the model has no weights for {', '.join(missing[:3])} of its own files", "they were saved by another model")
    return {name: state[name] for name in names}


def _write(module: PreTrainedModel, state: dict[str, Tensor], folder: Path, extra: dict[str, Any]) -> None:
    """``extra`` goes into config.json."""
    before = module.config
    module.config = copy.deepcopy(before)
    module.config.dtype = torch.float32
    module.config.update(extra)
    try:
        module.save_pretrained(folder, state_dict=state)
    finally:
        module.config = before


def generation_config(model: Model, tokenizer: Any) -> GenerationConfig:
    """The model's own, which plain ``generate`` follows, with all tokens that an answer may end with (``Model.stop_tokens``): a base model
    tuned on a chat template ends its turns with another token than its texts."""
    config = copy.deepcopy(getattr(model.module, "generation_config", None)) or GenerationConfig()
    given = config.eos_token_id
    own = [*given] if isinstance(given, list | tuple) else [given]
    stops = sorted({int(t) for t in (*own, tokenizer.eos_token_id, *model.stop_tokens) if t is not None})
    if stops:
        config.eos_token_id = stops if len(stops) > 1 else stops[0]
        if config.pad_token_id is None:  # generate fills up batches with it
            config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    return config


def _classifier(model: Model, state: dict[str, Tensor], tokenizer: Any) -> PreTrainedModel | None:
    """The model as transformers' sequence classifier with one label, or None where the architecture has none.

    That class scores the last token that is not the pad token. Keel scores the last real token, which is the end token; so the pad token
    must be another one, in the config and in the tokenizer that goes with it.
    """
    if type(model.config) not in transformers.AutoModelForSequenceClassification._model_mapping:
        return None
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    assert model.score_head is not None
    config.update({heads.CONFIG_KEY: model.score_head.spec.to_json()})
    config.get_text_config().pad_token_id = tokenizer.pad_token_id = _pad_token(model, tokenizer)
    with torch.random.fork_rng(devices=[]):
        classifier = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    prefix = model.module.base_model_prefix + "."
    body = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    classifier.base_model.load_state_dict(body)
    if not isinstance(getattr(classifier, "score", None), torch.nn.Linear):
        return None
    with torch.no_grad():
        classifier.score.weight.copy_(model.score_head.weight)
    return classifier


def _pad_token(model: Model, tokenizer: Any) -> int:
    """A token that never ends a sequence: the pad token unless it is also an end token, else another special token."""
    ends = {tokenizer.eos_token_id}
    generation = getattr(model.module, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    ends |= set(eos) if isinstance(eos, list | tuple) else {eos}
    candidates = [tokenizer.pad_token_id, getattr(tokenizer, "unk_token_id", None), *tokenizer.all_special_ids]
    for token in candidates:
        if token is not None and token not in ends:
            return int(token)
    raise ModelError(
        "the tokenizer has no token for padding besides the end token", "add a pad token to the tokenizer before training a reward model"
    )


def save_adapter(model: Model, folder: Path, tokenizer: Any = None) -> None:
    """See ``Model.save_adapter``."""
    if model.peft_model is None:
        raise ModelError("this model has no adapter to save", "train it with LoRA, or save the whole model")
    grown = input_table(model.module).requires_grad  # rows of added tokens were trained
    with _into(folder), quiet():
        model.peft_model.save_pretrained(str(folder), save_embedding_layers=grown)
        if tokenizer is not None and not model.heads:
            tokenizer.save_pretrained(folder)
            generation_config(model, tokenizer).save_pretrained(folder)
    heads.save_heads(folder, model.heads)
