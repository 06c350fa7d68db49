"""Where ranks run: processes of this machine, or actors of a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping

import torch

from keel.core.errors import ConfigError
from keel.learner.config import ClusterConfig
from keel.learner.host import Host


def host_of(cluster: ClusterConfig, device: torch.device) -> Host:
    """Start the ranks that ``cluster`` asks for; they compute on a ``device`` like the driver's. Raises ConfigError where there is no room
    for them."""
    if cluster.ray:
        from keel.learner.actors import Actors  # loads ray

        return Host(cluster, Actors(cluster, device))
    from keel.learner.processes import Processes

    return Host(cluster, Processes(cluster, device))


def check_ray() -> None:
    """Raise ConfigError where ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("cluster.ray needs the package ray", "pip install 'keel-align[ray]' on all machines; or leave cluster.ray out")


def refuse_launchers(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError where a launcher started this command several times, as ``torchrun`` does: each would be a run of its own."""
    world = environment.get("WORLD_SIZE", "")
    if world.isdecimal() and int(world) > 1 and "RANK" in environment:
        raise ConfigError(
            f"this is process {environment['RANK']} of {world} that a launcher started (RANK and WORLD_SIZE are set): a run has one "
            "driver, which starts its ranks",
            f"start the command once, without torchrun: cluster.ranks={world} on one machine, cluster.ray=auto on several",
        )
