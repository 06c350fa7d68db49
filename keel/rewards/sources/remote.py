"""A reward server as a source. What does not come is a failure with its reason, never a low score."""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from keel.rewards.score import SourceRow
from keel.rewards.settings import SourceConfig
from keel.rewards.text import OnceLog
from keel.types import Group, Message

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch


class RemoteReward(SourceConfig):
    """A reward model behind HTTP: `keel serve reward`, or another trainer's server."""

    type: Literal["remote"] = Field(default="remote", description="A reward server.")
    url: str = Field(pattern=r"^https?://\S+$", description="Address of the server, e.g. http://127.0.0.1:5000; the layout adds its path.")
    layout: Literal["keel", "openrlhf", "vllm", "sglang"] = Field(
        default="keel",
        description="What is sent where: keel = prompt and answer to /score; openrlhf = whole texts in the policy's template to "
        "/get_reward; vllm = the same to /classify; sglang = to /v1/embeddings.",
    )
    served_model: str = Field(default="", description="Name of the model that the server is asked for (vllm, sglang).")
    batch: int = Field(default=64, ge=1, description="Answers of one request at most.")
    timeout_s: float = Field(default=60.0, gt=0, description="Longest wait for one request.")
    attempts: int = Field(default=3, ge=1, le=20, description="How often a request is sent that finds the server full, gone or late.")


Decode = Callable[["Tensor"], str]  # token ids -> text, special tokens written out
PATHS: Mapping[str, str] = {"keel": "/score", "openrlhf": "/get_reward", "vllm": "/classify", "sglang": "/v1/embeddings"}
_PAUSE_S = 0.2  # before the second attempt; doubled for each further one
_AGAIN = frozenset({429, 502, 503, 504})


class RemoteError(Exception):
    """No scores for one request, and why."""


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A ``RewardSource``. ``decode`` writes sampled tokens out for servers that take whole texts."""

    config: RemoteReward
    decode: Decode
    pause: Callable[[float], None] = time.sleep
    warn: OnceLog = field(default_factory=OnceLog, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.config.name

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN for rollouts that failed and where the server gave no score."""
        import torch

        result = [torch.full((len(g.rollouts),), torch.nan) for g in groups]
        places = [(g, i) for g, group in enumerate(groups) for i, valid in enumerate(group.valid_G.tolist()) if valid]
        for start in range(0, len(places), self.config.batch):
            part = places[start : start + self.config.batch]
            try:
                scores = self._scores([(groups[g], i) for g, i in part])
            except RemoteError as error:
                self.warn(str(error), "reward %s: %s; %d answers have no score", self.name, error, len(part))
                continue
            for (g, i), score in zip(part, scores, strict=True):
                result[g][i] = score
        return result

    def _scores(self, asked: Sequence[tuple[Group, int]]) -> list[float]:
        pictured = next((g for g, _ in asked if g.encoded.media), None)
        if pictured is not None:
            raise RemoteError(f"prompt {pictured.prompt.prompt_id} holds images, reward servers take text alone")
        answer = self._post(self._body(asked))
        scores = _read(answer, self.config.layout, len(asked))
        for error in answer.get("errors") or []:
            if error:
                self.warn(str(error), "reward %s: the server: %s", self.name, error)
        return scores

    def _body(self, asked: Sequence[tuple[Group, int]]) -> dict[str, Any]:
        if self.config.layout == "keel":
            return {"items": [{"prompt": _prompt(g), "completion": g.rollouts[i].text} for g, i in asked]}
        prompts = [self.decode(g.encoded.tokens_T) for g, _ in asked]
        whole = [p + self.decode(g.rollouts[i].tokens_T) for p, (g, i) in zip(prompts, asked, strict=True)]
        if self.config.layout == "openrlhf":
            labels = [str(g.prompt.meta.get("ground_truth", "")) for g, _ in asked]
            return {"query": whole, "prompts": prompts, "labels": labels}
        body: dict[str, Any] = {"model": self.config.served_model, "input": whole}
        return body if self.config.layout == "sglang" else body | {"activation": False, "use_activation": False}

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        """The server's JSON object. Raises RemoteError as ``post`` does."""
        url = self.config.url.rstrip("/") + PATHS[self.config.layout]
        return post(url, body, self.config.timeout_s, self.config.attempts, pause=self.pause)


def post(
    url: str,
    body: Mapping[str, Any],
    timeout_s: float,
    attempts: int,
    headers: Mapping[str, str] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """The JSON object that a server answers. Raises RemoteError after the last attempt, or at once for an answer that will not change."""
    head = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=head)
    why = ""
    for attempt in range(attempts):
        if attempt:
            pause(_PAUSE_S * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                found = json.loads(response.read())
        except urllib.error.HTTPError as error:
            why = f"the server answers {error.code}: {_told(error)}"
            if error.code not in _AGAIN:
                break
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            why = f"the server at {url} does not answer: {getattr(error, 'reason', error)}"
        except ValueError:
            why = "the server's answer is no JSON"
            break
        else:
            if isinstance(found, dict):
                return found
            why = "the server's answer is no JSON object"
            break
    raise RemoteError(why)


def _prompt(group: Group) -> str | list[dict[str, str]]:
    """The prompt as text or messages."""
    if not group.prompt.messages:
        return group.prompt.text or ""
    return [_message(m) for m in group.prompt.messages]


def _message(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.text}


def _told(error: urllib.error.HTTPError) -> str:
    """What the server says of its refusal, briefly."""
    try:
        raw = error.read(2000).decode("utf-8", "replace")
    except OSError:
        return error.reason
    try:
        found = json.loads(raw)
    except ValueError:
        return raw.strip()[:200] or str(error.reason)
    return str(found.get("error") or found.get("detail") or found) if isinstance(found, dict) else str(found)


def _read(answer: Mapping[str, Any], layout: str, n: int) -> list[float]:
    """``n`` scores, NaN where there is none. Raises RemoteError for an answer of another shape."""
    try:
        match layout:
            case "keel":
                found = answer["scores"]
            case "openrlhf":
                found = answer["rewards"]
            case "vllm":
                found = [row["probs"][-1] for row in answer["data"]]
            case _:
                found = [row["embedding"][-1] for row in answer["data"]]
        scores = [math.nan if x is None else float(x) for x in found]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RemoteError(f"the server's answer is not of layout {layout}: {type(error).__name__} {error}") from None
    if len(scores) != n:
        raise RemoteError(f"the server gives {len(scores)} scores for {n} answers")
    return scores


ROW = SourceRow(RemoteReward)
