"""What llama.cpp makes of a GGUF file beside the model that it was written from: ids, template, log-probabilities. Never texts: at a near
tie the likeliest token turns with the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keel.release.candidate import Reader
from keel.release.gguf.llama_cpp import LlamaCpp, is_installed
from keel.release.probes import Probe, logprobs_TV

_PLACES = 3  # of each answer
_LIKELIEST = 100
_CHAT = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "你好，12 + 35 = ?"})


@dataclass(frozen=True, slots=True)
class Checked:
    """``compared``: log-probabilities of tokens at places, those alone that llama.cpp lists. ``example``: the first text that differs."""

    same_ids: bool
    same_template: bool
    logprob_difference: float
    compared: int
    example: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_in_llama_cpp(file: Path, reader: Reader, probes: Sequence[Probe]) -> Checked | None:
    """None where the bindings are not installed. The prompts are those of the probes, which begin as the model's own do: no token of
    beginning may stand there twice."""
    if not is_installed():
        return None
    tokenizer, codec = reader.loaded.tokenizer, reader.renderer.codec
    server = LlamaCpp(file, exact=True)
    texts = [tokenizer.decode(p.ids_L) for p in probes] + [p.question for p in probes]
    other = next((t for t in texts if server.ids(t, special=False) != codec.encode(t)), "")
    begins = next((p.question for p in probes if server.ids(p.question) != codec.start(p.question)), "")
    chat = ""
    if reader.renderer.template is not None:
        own = tokenizer.apply_chat_template(list(_CHAT), add_generation_prompt=True, tokenize=False)
        chat = "" if server.chat(_CHAT) == own else own
    worst, compared = 0.0, 0
    for probe in probes:
        own_TV = logprobs_TV(reader.loaded.model, probe)
        for place in sorted({0, probe.answer // 2, probe.answer - 1})[:_PLACES]:
            ids = probe.ids_L[: len(probe.ids_L) - probe.answer + place].tolist()
            for token, logprob in server.next_logprobs(ids, _LIKELIEST).items():
                worst = max(worst, abs(logprob - float(own_TV[place, token])))
                compared += 1
    return Checked(not (other or begins), not chat, worst, compared, other or begins or chat)
