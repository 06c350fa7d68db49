"""Settings of `keel serve reward`."""

from __future__ import annotations

from pydantic import Field

from keel.core.config import Section
from keel.learner.config import BatchConfig
from keel.models.config import ModelOptions
from keel.render.config import RenderConfig
from keel.rewards.sources.model import EnsembleConfig


class QueueConfig(Section):
    """How requests wait and how they are put together."""

    batch: int = Field(default=64, ge=1, description="Answers of one pass at most; a pass takes what is waiting when it begins.")
    waiting: int = Field(default=1024, ge=1, description="Answers that may wait; a request beyond them is refused at once (503).")
    timeout_s: float = Field(default=60.0, gt=0, description="Longest wait of a request for its scores (504 after it).")
    connections: int = Field(default=64, ge=1, description="Connections at a time; one more is refused at once (503).")
    read_timeout_s: float = Field(default=10.0, gt=0, description="Silence of a client, within a request, that ends its connection.")
    max_body_mb: float = Field(default=16.0, gt=0, description="Largest request (413 above).")


class ServeRewardConfig(Section):
    """`keel serve reward MODEL`: a reward model over HTTP."""

    model: str = Field(description="Reward model: a folder that `keel reward` made, or any model spec with a score head.")
    host: str = Field(default="127.0.0.1", description="Address to listen at. There is no password: 0.0.0.0 is for trusted networks.")
    port: int = Field(default=5000, ge=0, le=65535, description="Port; 0 = one that is free, which is printed.")
    standardise: bool = Field(default=True, description="Give (score - mean) / std, with the constants stored beside the model.")
    ensemble: EnsembleConfig = Field(default=EnsembleConfig(), description="What becomes of several members' scores.")
    queue: QueueConfig = Field(default=QueueConfig(), description="Waiting, batching, limits.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How the model is loaded and computed.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens.")
    batch: BatchConfig = Field(default=BatchConfig(), description="Tokens of one pass.")
