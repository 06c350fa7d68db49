"""Ranks as actors over the machines of a Ray cluster, a GPU each where the driver computes on one, some CPU cores each elsewhere."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from keel.core.errors import ConfigError, RankLostError
from keel.learner.config import ClusterConfig
from keel.learner.group import Fate, refuse_windows, setup_of, threads_of_a_rank
from keel.learner.ray_cluster import Cluster, connect, first_line, loaded_ray, worker_environment
from keel.learner.ray_rank import Look, RayRank, joined, versions
from keel.learner.wire import packed

log = logging.getLogger("keel")
_ROOM_S = 60.0  # in which the cluster finds room for the ranks
_START_S = 120.0  # in which their processes start
_AHEAD = 4  # parts of an answer that may wait for the driver


class Actors:
    """A ``Group`` of actors."""

    def __init__(self, cluster: ClusterConfig, device: torch.device) -> None:
        """Start them; they load what they need while the driver goes on. Raises ConfigError where the cluster has no room for them or runs
        other versions, RankLostError where they do not start."""
        refuse_windows(cluster)
        threads = threads_of_a_rank(device, cluster.ranks)
        self._here = connect(cluster.ray, cluster.ranks * threads)
        self._actors: list[Any] = []
        self._places: list[Any] = []  # the placement group
        self._end = weakref.finalize(self, _end, os.getpid(), self._here, self._actors, self._places)
        try:
            self._start(cluster, device)
        except BaseException:
            self._end()
            raise

    def _start(self, cluster: ClusterConfig, device: torch.device) -> None:
        ray = loaded_ray()
        self.world = world_of(cluster, device, ray.cluster_resources())
        threads = threads_of_a_rank(device, self.world)
        self._place({"CPU": 1, "GPU": 1} if device.type == "cuda" else {"CPU": threads}, threads)
        try:
            self._looks: list[Look] = ray.get([actor.look.remote(os.getcwd()) for actor in self._actors], timeout=_START_S)
            check_looks(self._looks)
            meeting = ray.get(self._actors[0].listen.remote(), timeout=_START_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            what = f"the ranks did not start on {self._here.where}: {first_line(error)}"
            raise RankLostError(what, "start the same command again") from None
        self._streams: list[Any] = [None] * self.world
        self._parts: list[list[bytes]] = [[] for _ in range(self.world)]
        self._gone: dict[int, str] = {}
        setups = (setup_of(rank, self.world, cluster, device, meeting, gpu=0) for rank in range(self.world))
        self._joins = [actor.join.remote(packed(setup)) for actor, setup in zip(self._actors, setups, strict=True)]
        log.info("%d ranks on %s: %s", self.world, self._here.where, ", ".join(f"{x.machine} ({x.pid})" for x in self._looks))

    def _place(self, share: Mapping[str, int], threads: int) -> None:
        """Room for all ranks or for none, and an actor in each place."""
        ray = loaded_ray()
        places = ray.util.placement_group([dict(share)] * self.world, strategy="PACK")
        self._places.append(places)
        try:
            ray.get(places.ready(), timeout=_ROOM_S)
        except ray.exceptions.GetTimeoutError:
            what = f"the Ray cluster has no room for {self.world} ranks of {_said(share)} within {_ROOM_S:g} s"
            free = f"free are {_said(ray.available_resources())}"
            raise ConfigError(f"{what}; {free}", "wait until others are done, or lower cluster.ranks") from None
        options: dict[str, Any] = {"num_cpus": share["CPU"], "num_gpus": share.get("GPU", 0), "max_restarts": 0}
        options["runtime_env"] = {"env_vars": worker_environment(threads, os.environ)}
        kind = ray.remote(RayRank)
        for rank in range(self.world):
            strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=rank)
            self._actors.append(kind.options(scheduling_strategy=strategy, **options).remote())

    @property
    def pids(self) -> list[int]:
        """Of the ranks, in order, each on its machine."""
        return [look.pid for look in self._looks]

    def begin(self, data: bytes) -> None:
        """See ``Group``."""
        ray = loaded_ray()
        try:
            message = ray.put(data)
            for rank, actor in enumerate(self._actors):
                stream = actor.do.options(num_returns="streaming", _generator_backpressure_num_objects=_AHEAD)
                self._streams[rank], self._parts[rank] = stream.remote(message), []
        except ray.exceptions.RayError as error:  # the cluster is out of reach
            self._gone = dict.fromkeys(range(self.world), str(error))

    def answers(self, waited: Collection[int], within_s: float) -> list[tuple[int, bytes | None]]:
        """See ``Group``."""
        ray = loaded_ray()
        if gone := [rank for rank in waited if rank in self._gone]:
            return [(gone[0], None)]
        streams = {self._streams[rank]: rank for rank in waited}
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=within_s, fetch_local=False)
        said: list[tuple[int, bytes | None]] = []
        for stream in ready:
            rank = streams[stream]
            try:
                self._parts[rank].append(ray.get(next(stream)))
            except (ray.exceptions.RayError, StopIteration) as error:
                self._gone[rank] = str(error)
                said.append((rank, None))
                continue
            if (message := joined(self._parts[rank])) is not None:
                said.append((rank, message))
                self._parts[rank] = []
        return said

    def fate(self, rank: int) -> Fate:
        """See ``Group``."""
        return fate_of(self._looks[rank], self._gone.get(rank, ""))

    def end(self) -> None:
        """See ``Group``."""
        self._end()


def world_of(cluster: ClusterConfig, device: torch.device, resources: Mapping[str, float]) -> int:
    """How many ranks: as many as asked for, or as there are GPUs. Raises ConfigError where the cluster does not have that much."""
    gpus, cpus = math.floor(resources.get("GPU", 0)), math.floor(resources.get("CPU", 0))
    if device.type == "cuda":
        world = cluster.ranks if cluster.ranks > 1 else gpus
        if not 1 < world <= gpus:
            raise ConfigError(f"cluster.ranks={world}, but the Ray cluster has {gpus} GPUs: each rank needs its own", "set what there is")
        return world
    if cluster.ranks == 1:
        what = "set cluster.ranks=N" if not gpus else "start the command on a machine with a GPU, or set cluster.ranks=N for ranks on CPUs"
        raise ConfigError("cluster.ray: this driver has no GPU, so there is no telling how many ranks there are to be", what)
    if gpus:
        log.warning("cluster.ray: the cluster has %d GPUs, but the driver computes on a CPU, and so do its ranks", gpus)
    wanted = cluster.ranks * threads_of_a_rank(device, cluster.ranks)
    if wanted > cpus:
        what = f"{cluster.ranks} ranks of {wanted // cluster.ranks} threads need {wanted} CPUs, and the Ray cluster has {cpus}"
        raise ConfigError(what, "lower settings.threads or cluster.ranks")
    return cluster.ranks


def fate_of(look: Look, why: str) -> Fate:
    """How a rank ended, by what Ray says of it."""
    who = f"(process {look.pid} on {look.machine}, {look.address})"
    if "running low on memory" in why:
        return Fate(f"{who} was ended by Ray, because memory was low", "Lower batch.microbatch_tokens, or share out over more ranks")
    if "node has died" in why or "node was terminated" in why:
        return Fate(f"{who} is gone with its machine")
    return Fate(f"{who} was killed or ended by itself")


def check_looks(looks: Sequence[Look]) -> None:
    """Raise ConfigError where a rank runs other versions than the driver, or has not its working folder."""
    ours = versions()
    for rank, look in enumerate(looks):
        other = [
            f"{name} {look.versions.get(name)} (here {version})" for name, version in ours.items() if look.versions.get(name) != version
        ]
        if other:
            raise ConfigError(f"rank {rank} on {look.machine} runs {', '.join(other)}", "install the same versions on all machines")
        if not look.folder:
            what = f"rank {rank} on {look.machine} does not find the folder {os.getcwd()}"
            raise ConfigError(what, "start the command in a folder that all machines share, under the same path")


def _said(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU") if name in resources) or "nothing"


def _end(driver: int, here: Cluster, actors: list[Any], places: list[Any]) -> None:
    if os.getpid() != driver:  # a child that the driver forked
        return
    ray = loaded_ray()
    with contextlib.suppress(Exception):  # the cluster may be gone: there is nothing to end then
        for actor in actors:
            ray.kill(actor)
        for group in places:
            ray.util.remove_placement_group(group)
    actors.clear()
    here.leave()
