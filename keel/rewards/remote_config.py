"""Settings of a reward that a server gives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.rewards.settings import SourceConfig


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
