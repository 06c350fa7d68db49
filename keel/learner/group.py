"""Ranks that were started somewhere, as a host needs them: processes of this machine (``processes``) or actors of a Ray cluster
(``actors``)."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch

from keel.core.errors import ConfigError
from keel.learner.config import ClusterConfig

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True, slots=True)
class Sharing:
    """How weights lie that are shared out over ranks."""

    rounded: bool = False  # to bfloat16 before they are put together
    offload: bool = False  # on the CPU's side, with gradients and moments


@dataclass(frozen=True, slots=True)
class Setup:
    """What a rank is told first."""

    rank: int
    world: int
    meeting: str  # where they find each other: file:///... or tcp://address:port, where rank 0 listens
    device: str  # cpu or cuda
    gpu: int  # the number by which this rank's process knows its GPU
    sharing: Sharing | None  # how weights are shared out; None: every rank has all
    timeout_s: float
    threads: int
    deterministic: bool


@dataclass(frozen=True, slots=True)
class Fate:
    """How a rank ended: ``how`` goes on after "rank 1 of 2"."""

    how: str
    hint: str = ""


class Group(Protocol):
    """Ranks that do what they are told, all at once. Of those that are gone ``answers`` tells; nothing raises because of them."""

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    def begin(self, data: bytes) -> None:
        """Hand all of them a command. They have answered the one before."""
        ...

    def answers(self, waited: Collection[int], within_s: float) -> list[tuple[int, bytes | None]]:
        """What some of these ranks said, one message each, as soon as one did; nothing after ``within_s`` seconds. None: it is gone."""
        ...

    def fate(self, rank: int) -> Fate:
        """How a rank that is gone ended."""
        ...

    def end(self) -> None:
        """End all of them; fine to call twice."""
        ...


def threads_of_a_rank(device: torch.device, world: int) -> int:
    """GPUs are told apart by number, CPU cores are shared out."""
    return torch.get_num_threads() if device.type == "cuda" else max(1, torch.get_num_threads() // world)


def setup_of(rank: int, world: int, cluster: ClusterConfig, device: torch.device, meeting: str, gpu: int) -> Setup:
    """What rank ``rank`` of ``world`` is told."""
    sharing = Sharing(cluster.gather == "bf16", cluster.offload) if cluster.shard == "full" else None
    deterministic = torch.are_deterministic_algorithms_enabled()
    return Setup(rank, world, meeting, device.type, gpu, sharing, cluster.timeout_s, threads_of_a_rank(device, world), deterministic)


def refuse_windows(cluster: ClusterConfig) -> None:
    """Raise ConfigError where ranks cannot run."""
    if sys.platform == "win32":
        raise ConfigError(f"cluster.ranks={cluster.ranks}: several processes run on Linux and macOS only", "set cluster.ranks=1")
