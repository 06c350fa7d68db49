"""A judge as detector: a server that speaks OpenAI's chat protocol is shown the picture and the answer, and names what is made up."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from keel.core.config import Section
from keel.core.errors import UserError
from keel.rewards.detectors.found import ERROR_TYPES, Detector, Found
from keel.rewards.sources.remote import post
from keel.types import ImagePart, Message, Prompt

ASK = """You check an answer about a picture. Look at the picture, then list every claim of the answer that the picture does not support.
Reply with one JSON object and nothing else:
{"claims": [{"quote": "words of the answer, copied exactly", "type": "existence | count | attribute | relation | knowledge"}],
 "told": ["important things in the picture that the answer tells"], "missed": ["important things that it does not tell"]}
existence: a thing that is not there; count: a wrong number; attribute: a wrong colour, size, material or state; relation: a wrong place or
action; knowledge: a wrong fact about what is shown. An answer without wrong claims has "claims": []."""


class PictureJudgeConfig(Section):
    """A judge behind OpenAI's chat protocol."""

    url: str = Field(default="", pattern=r"^(https?://\S+)?$", description="Address up to and with /v1, e.g. http://127.0.0.1:8000/v1.")
    model: str = Field(default="", description="Name of the model that the server is asked for.")
    key_env: str = Field(default="", description="Name of the environment variable that holds the server's key; empty = none is sent.")
    ask: str = Field(default="", description="Text file with another instruction; it must ask for the same JSON. Empty = Keel's own.")
    timeout_s: float = Field(default=120.0, gt=0, description="Longest wait for one answer.")
    at_once: int = Field(default=8, ge=1, le=256, description="How many answers are being judged at the same time.")
    attempts: int = Field(default=3, ge=1, le=20, description="How often a request is sent that finds the server full, gone or late.")


def by_judge(config: PictureJudgeConfig) -> Detector:
    """Raises UserError for an address, a key or an instruction that is not there. The detector raises ValueError for replies that are not
    what was asked for, and RemoteError where the server gives none."""
    if not config.url or not config.model:
        raise UserError(f"judge.{'model' if config.url else 'url'}: not given", "judge: {url: http://127.0.0.1:8000/v1, model: NAME}")
    headers = dict[str, str]()
    if config.key_env:
        if not (key := os.environ.get(config.key_env)):
            raise UserError(f"judge.key_env: the environment has no {config.key_env}", f"set {config.key_env}, or leave key_env out")
        headers["Authorization"] = f"Bearer {key}"
    ask = _instruction(config.ask) if config.ask else ASK

    def detect(prompt: Prompt, text: str) -> Found:
        if not text.strip():
            return Found((), 0.0)
        body = {"model": config.model, "temperature": 0, "messages": messages(ask, prompt, text)}
        reply = post(f"{config.url.rstrip('/')}/chat/completions", body, config.timeout_s, config.attempts, headers)
        try:
            said = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"the judge's reply is not of the chat protocol: {reply!r:.200}") from None
        return read_reply(said, text)

    return detect


def messages(ask: str, prompt: Prompt, text: str) -> list[dict[str, Any]]:
    """The conversation that the judge is sent: instruction, what was asked with its pictures, and the answer."""
    asked = [part for m in prompt.messages for part in _parts(m)] or [{"type": "text", "text": prompt.text or ""}]
    return [
        {"role": "system", "content": ask},
        {"role": "user", "content": [*asked, {"type": "text", "text": f"The answer to check:\n{text}"}]},
    ]


def read_reply(said: str, text: str) -> Found:
    """The judge's JSON, perhaps in a fence or among words. A quote that is not in the answer is due at its end. The coverage is told /
    (told + missed); None where the judge names neither. Raises ValueError for anything else."""
    found = re.search(r"\{.*\}", said or "", re.DOTALL)
    try:
        value = json.loads(found[0]) if found else None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("claims"), list):
        raise ValueError(f"the judge's reply has no JSON object with claims: {said!r:.200}")
    errors: list[tuple[str, int, int]] = []
    taken: dict[str, int] = {}
    for claim in value["claims"]:
        if not isinstance(claim, dict) or claim.get("type") not in ERROR_TYPES or not isinstance(claim.get("quote"), str):
            raise ValueError(f"a claim must have a quote and a type of {', '.join(ERROR_TYPES)}, this is {claim!r:.100}")
        quote = claim["quote"]
        at = text.find(quote, taken.get(quote, 0)) if quote else -1
        taken[quote] = at + len(quote) if at >= 0 else 0
        errors.append((claim["type"], at, at + len(quote)) if at >= 0 else (claim["type"], len(text), len(text)))
    return Found(errors, _coverage(value))


def _coverage(value: Mapping[str, Any]) -> float | None:
    told, missed = value.get("told"), value.get("missed")
    if not isinstance(told, list) or not isinstance(missed, list) or not told + missed:
        return None
    return len(told) / (len(told) + len(missed))


def _parts(message: Message) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"type": "text", "text": message.content}]
    return [
        {"type": "image_url", "image_url": {"url": _data_url(p)}} if isinstance(p, ImagePart) else {"type": "text", "text": p.text}
        for p in message.content
    ]


def _data_url(part: ImagePart) -> str:
    if part.source.startswith("data:"):
        return part.source
    kind = mimetypes.guess_type(part.source)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(Path(part.source).read_bytes()).decode()}"


def _instruction(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"judge.ask={path}: cannot be read: {error}", "give a text file") from None
