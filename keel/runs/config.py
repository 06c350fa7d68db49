"""Settings of checkpoints and trackers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.core.config import Section

Attack = Literal["praise", "flattery", "template", "list", "echo", "stuffing", "repetition", "padding", "verdict", "elsewhere"]


class CheckpointConfig(Section):
    """When a checkpoint is written and how many are kept."""

    every: int = Field(default=50, ge=1, description="Write a checkpoint every N steps, and after the last one.")
    keep: int = Field(
        default=3, ge=1, description="Keep the newest N; latest, best and good are always kept. From 2 on, a broken one can be replaced."
    )


class RolloutsConfig(Section):
    """Answers of RL that are kept whole in `rollouts/`: tokens, log-probabilities, advantages, rewards by part."""

    every: int = Field(
        default=10, ge=0, description="Keep the best, the worst and a random answer every N steps; evaluations and alarms too. 0: none."
    )
    max_mb: float = Field(default=64.0, gt=0, description="Size of the folder, about: where it is reached, every second step goes.")


class AuditConfig(Section):
    """Answers of RL that become tasks for people or judges in `audit/`: does whoever looks agree with the reward?"""

    every: int = Field(default=0, ge=0, description="Write tasks every N steps; 0: none.")
    top: int = Field(default=4, ge=0, description="Highest rewarded answers, one a prompt.")
    flagged: int = Field(
        default=4, ge=0, description="Answers that look made for the reward (docs/rewards.md), the highest rewarded first."
    )
    random: int = Field(default=4, ge=0, description="Answers at random, to compare with.")
    protocol: str = Field(default="pairwise-v1", min_length=1, description="Protocol of the tasks.")


class RedTeamConfig(Section):
    """Answers that deserve nothing, scored beside the policy's best: is one of them paid more?"""

    every: int = Field(default=0, ge=0, description="Score them every N steps of RL; 0: never.")
    prompts: int = Field(default=8, ge=1, description="On so many of the step's prompts.")
    attacks: tuple[Attack, ...] = Field(default=(), description="Which ones (docs/rewards.md); empty: all.")


class TrackingConfig(Section):
    """Where metrics go beside `metrics.jsonl`, which is always written."""

    tensorboard: bool = Field(default=False, description="Write TensorBoard files into `tensorboard/` of the run directory.")
    wandb: bool = Field(default=False, description="Send metrics to Weights & Biases.")
    wandb_project: str = Field(default="keel", description="Project that the run appears in.")
    wandb_mode: Literal["online", "offline"] = Field(
        default="online", description="`offline` writes into the run directory; send it later with `wandb sync`."
    )
    mlflow: bool = Field(default=False, description="Send metrics to MLflow (`mlflow-skinny` is enough).")
    mlflow_uri: str = Field(default="", description="Its tracking server; empty: files in `mlruns/` of the run directory.")
    mlflow_experiment: str = Field(default="keel", description="Experiment that the run appears in.")
    trackio: bool = Field(default=False, description="Send metrics to Trackio.")
    trackio_project: str = Field(default="keel", description="Project that the run appears in.")
    swanlab: bool = Field(default=False, description="Send metrics to SwanLab.")
    swanlab_project: str = Field(default="keel", description="Project that the run appears in.")
    swanlab_mode: Literal["cloud", "local", "offline"] = Field(
        default="cloud", description="`local` and `offline` write into the run directory."
    )
    rollouts: RolloutsConfig = Field(default=RolloutsConfig(), description="Answers that are kept whole, for a view by tokens.")
    audit: AuditConfig = Field(default=AuditConfig(), description="Answers that become tasks for people, to audit the reward.")
    red_team: RedTeamConfig = Field(default=RedTeamConfig(), description="Answers that try to game the reward, scored on a schedule.")
    log_every: int = Field(default=10, ge=1, description="Without a terminal: print a line every N steps.")
