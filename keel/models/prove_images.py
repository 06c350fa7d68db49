"""Proof of both paths on prompts with images, against transformers' own forward pass on its processor's output for the whole prompt.

A path may be right on text and silently wrong on images: positions in three rows, tokens that see each other both ways, pixels joined along
the wrong axis. What cannot be shown to be right is refused by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from keel.kernels.positions import packed_positions
from keel.models import media, pictured, placing, prove
from keel.models.model import Model
from keel.models.pictured import Pictured
from keel.types import Batch, Branch, Encoded, Layout, Unit

log = logging.getLogger("keel")
CODE = (media, pictured, placing)
_BRANCHES = ((6, 3), (5,))  # lengths of the answers to each prompt
_TEXT = (7, (4,))  # a prompt without an image, and its answer


def prove_images(model: Model) -> None:
    """Take the packed path only where it is right with images too, and set ``no_images`` where neither path is: text keeps its path."""
    if model.pictured is None or (model.packed and _right(model, prove.measured(model, "packed rows with images", packed_error, CODE))):
        return
    error = prove.measured(model, "images", plain_error, CODE)
    if _right(model, error):
        if model.packed:
            log.warning("packed rows are not exact for '%s' with images; the plain path is used", model.config.model_type)
        model.packed = False
        return
    how = _why(model) if error is None else f"the difference from the model's own pass is {100 * error:.2g}%"
    model.no_images = f"images of '{model.config.model_type}' are not read as the model reads them ({how}): text only"
    log.warning("%s", model.no_images)


def _right(model: Model, error: float | None) -> bool:
    return error is not None and error <= prove.tolerance(model)


def _why(model: Model) -> str:
    """What the proof fails with."""
    try:
        return f"the difference is {plain_error(model):.2g}"
    except Exception as error:  # whatever transformers raises: it is told, and only text is read
        return (str(error).strip().splitlines() or [type(error).__name__])[0]


def packed_error(model: Model) -> float:
    """Relative difference of hidden states in one packed row from each sequence by itself."""
    return _error(model, packed=True)


def plain_error(model: Model) -> float:
    """The same of padded rows with the model's own attention."""
    return _error(model, packed=False)


def _error(model: Model, packed: bool) -> float:
    assert model.pictured is not None
    samples, before = model.pictured(), model.packed
    units = image_units(model, samples)
    model.packed = packed
    try:
        with torch.no_grad(), prove.narrow_windows(model), model.showing(samples):
            got_NH = model.hidden(as_batch(units), look=False).float()
            return max(_one_error(model, *part) for part in _apart(got_NH, _by_unit(units, samples)))
    finally:
        model.packed = before


def _one_error(model: Model, got_LH: Tensor, unit: Unit, branch: int, sample: Pictured | None) -> float:
    """Of one prompt with one answer."""
    own_LH = own_hidden(model, unit, branch, sample)
    return prove.beyond_rounding(model, got_LH, own_LH, lambda: own_hidden(model, unit, branch, sample))


def _apart(got_NH: Tensor, units: Sequence[tuple[Unit, Pictured | None]]) -> Iterator[tuple[Tensor, Unit, int, Pictured | None]]:
    """A packed row's states as those of each prompt with each of its answers."""
    at = 0
    for unit, sample in units:
        prompt_LH, at = got_NH[at : at + len(unit.prompt)], at + len(unit.prompt)
        for b, branch in enumerate(unit.branches):
            yield torch.cat([prompt_LH, got_NH[at : at + len(branch)]]), unit, b, sample
            at += len(branch)


def image_units(model: Model, samples: Sequence[Pictured]) -> list[Unit]:
    """The prompts with images and one without, each with answers of fixed random tokens."""
    vocab = model.head_weight_VH.shape[0]
    allowed = torch.tensor([t for t in range(min(vocab, 2000)) if t not in model.transform.banned])
    generator = torch.Generator().manual_seed(1)

    def draw(n: int) -> Tensor:
        return allowed[torch.randint(len(allowed), (n,), generator=generator)]

    def unit(name: str, prompt: Encoded, lengths: Sequence[int]) -> Unit:
        return Unit(name, prompt, tuple(Branch(draw(n), torch.ones(n, dtype=torch.bool)) for n in lengths))

    text_T = draw(_TEXT[0])
    text = Encoded(text_T, spans=placing.spans_of(model.module, text_T))
    units = [unit(str(k), sample.prompt, _BRANCHES[k]) for k, sample in enumerate(samples)]
    return [units[0], unit("text", text, _TEXT[1]), *units[1:]]


def _by_unit(units: Sequence[Unit], samples: Sequence[Pictured]) -> list[tuple[Unit, Pictured | None]]:
    left = iter(samples)
    return [(unit, next(left) if unit.prompt.media else None) for unit in units]


def own_hidden(model: Model, unit: Unit, branch: int, sample: Pictured | None) -> Tensor:
    """Hidden states [L, H] of prompt and branch by the model's own forward pass, from the processor's output."""
    tokens_1L = torch.cat([unit.prompt.tokens_T, unit.branches[branch].tokens_T])[None].to(model.device)
    n = len(unit.branches[branch])
    inputs = {} if sample is None else {name: value.to(model.device) for name, value in sample.whole.items()}
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs and sample is not None:
            inputs[name] = torch.cat([inputs[name], inputs[name].new_full((1, n), sample.answer_type)], 1)
    if sample is None:
        span_L = torch.zeros_like(tokens_1L, dtype=torch.bool)
        for first, end in unit.prompt.spans:
            span_L[:, first:end] = True
        inputs = placing.type_ids(model.module, span_L)
    with model.own_attention() as module, model.compute():
        out = module.base_model(input_ids=tokens_1L, attention_mask=torch.ones_like(tokens_1L), use_cache=False, **inputs)
    return out.last_hidden_state[0].float()


def as_batch(units: Sequence[Unit]) -> Batch:
    """Units as one packed row in which nothing is scored."""
    nothing = torch.zeros(0, dtype=torch.long)
    return Batch(
        tuple(units),
        torch.cat([part for u in units for part in (u.prompt.tokens_T, *(b.tokens_T for b in u.branches))]),
        packed_positions([(u.prompt, [len(b) for b in u.branches]) for u in units]),
        groups=tuple(Layout(len(u.prompt), tuple(len(b) for b in u.branches), u.prompt.spans) for u in units),
        source_S=nothing,
        target_S=nothing,
        branch_S=nothing,
        unit_R=nothing,
        last_R=nothing,
        signals={},
        media=tuple(ref for u in units for ref in u.prompt.media),
    )
