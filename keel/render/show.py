"""What is trained on, made visible: `keel data show`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from keel.data.dataset import Dataset, prompt_of
from keel.data.findings import find, untrained_turns
from keel.render.renderer import Refusal, Renderer
from keel.types import Comparison, PairTarget, RankingTarget, RatingTarget, StepsTarget, Target, Unit, UnpairedTarget

_PROMPT, _TRAINED, _UNTRAINED = "dim", "bold green", "yellow"


def explain(renderer: Renderer, unit: Unit) -> Text:
    """A unit as coloured text: prompt dim, trained tokens green, untrained ones of a branch yellow, special tokens reversed."""
    text = Text()
    text.append_text(
        _tokens(renderer, unit.prompt.tokens_T.tolist(), [_PROMPT] * len(unit.prompt), [m.n_tokens for m in unit.prompt.media])
    )
    for k, branch in enumerate(unit.branches):
        label = f"\n[answer {k + 1} of {len(unit.branches)}{_label(unit.target, k)}] " if len(unit.branches) > 1 or unit.target else ""
        text.append(label, style="bold cyan")
        styles = [_TRAINED if t else _UNTRAINED for t in branch.trained_T.tolist()]
        text.append_text(_tokens(renderer, branch.tokens_T.tolist(), styles, []))
    return text


def show(dataset: Dataset, renderer: Renderer, n: int, console: Console) -> None:
    """Print what was detected and the first ``n`` records as they are trained on."""
    kinds = ", ".join(f"{v} {k}" for k, v in dataset.counts.items() if k not in ("rows", "records", "bad"))
    found = f"{dataset.source}: {dataset.counts['rows']} rows, layout "
    console.print(Text.assemble(found, (dataset.layout, "bold"), f" ({kinds})"), soft_wrap=True)
    if dataset.bad:
        console.print(f"{len(dataset.bad)} bad rows, the first ones:", style="red")
        for row in dataset.bad[:5]:
            console.print(f"  {row}", style="red", markup=False, highlight=False)
    found = str(find(dataset.records))
    if found:
        console.print(found, style="yellow", markup=False, highlight=False)
    if n_untrained := untrained_turns(dataset.records):
        console.print(f"{n_untrained} assistant turns are read and not trained, as the file marks them", style="yellow")
    if renderer.injected_system:
        console.print(
            f"the chat template adds a system prompt of its own (set another with render.system=...): {renderer.injected_system!r}",
            style="magenta",
            markup=False,
            highlight=False,
        )
    stops = ", ".join(repr(renderer.tokenizer.convert_ids_to_tokens(t)) for t in renderer.stop_tokens)
    console.print(f"answers end at: {stops}; template sha256 {renderer.template_hash[:12] or '(none)'}", markup=False, highlight=False)
    console.print(Text.assemble("colours: ", ("prompt", _PROMPT), ", ", ("trained", _TRAINED), ", ", ("not trained", _UNTRAINED)))
    for record in dataset.records[:n]:
        place = prompt_of(record).source_id
        if isinstance(record, Comparison):
            body = Text(f"{record.outcome} of:\n1. {record.candidates[0].text}\n2. {record.candidates[1].text}")
            console.print(Panel(body, title=Text(f"{place} comparison by {record.annotator_id}"), title_align="left"))
            continue
        result = renderer.units_of(record)
        if isinstance(result, Refusal):
            console.print(Panel(Text(result.reason, style="red"), title=Text(f"{place} refused"), title_align="left"))
            continue
        for k, unit in enumerate(result, 1):
            trained = sum(int(b.trained_T.sum()) for b in unit.branches)
            part = f", unit {k} of {len(result)}" if len(result) > 1 else ""
            title = f"{place} {type(record).__name__.lower()}{part}: {len(unit.prompt)} prompt tokens, {trained} trained"
            console.print(Panel(explain(renderer, unit), title=Text(title), title_align="left"))


def _tokens(renderer: Renderer, ids: Sequence[int], styles: Sequence[str], images: Sequence[int]) -> Text:
    """Tokens in runs of one style, so that characters of several tokens stay whole; image placeholders as ``[image xN]``."""
    text = Text()
    image = renderer.images.token_id if renderer.images else None
    special = set(renderer.tokenizer.all_special_ids) | set(renderer.stop_tokens)
    left = list(images)
    i = 0
    while i < len(ids):
        if ids[i] == image:
            n = left.pop(0) if left else 1
            text.append(f"[image x{n}]", style="bold magenta")
            seen = 0
            while seen < n and i < len(ids):  # rows and tiles of one image may be separated by other tokens
                seen += ids[i] == image
                i += 1
            continue
        if ids[i] in special:
            text.append(renderer.tokenizer.convert_ids_to_tokens(ids[i]), style=f"{styles[i]} reverse")
            i += 1
            continue
        j = i
        while j < len(ids) and styles[j] == styles[i] and ids[j] not in special and ids[j] != image:
            j += 1
        text.append(renderer.tokenizer.decode(list(ids[i:j]), clean_up_tokenization_spaces=False), style=styles[i])
        i = j
    return text


def _label(target: Target, k: int) -> str:
    match target:
        case PairTarget(edges):
            signs = [f"over {e.loser + 1}" for e in edges if e.winner == k] + [f"under {e.winner + 1}" for e in edges if e.loser == k]
            return ": " + ", ".join(signs)
        case RankingTarget(ranks):
            return f": rank {ranks[k]}"
        case RatingTarget(scores):
            return ": " + ", ".join(f"{d} {s:g}" for d, s in scores[k].items())
        case UnpairedTarget(desirable):
            return ": wanted" if desirable[k] else ": not wanted"
        case StepsTarget(_, labels):
            return ": steps " + " ".join("right" if x else "wrong" for x in labels[k])
        case None:
            return ""
