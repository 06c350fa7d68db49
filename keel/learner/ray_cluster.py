"""A driver's connection with a Ray cluster: one that runs, or one on this machine for as long as the ranks live."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError

log = logging.getLogger("keel")
_LOOK_S = 5.0  # in which a cluster takes a connection
_STORE = 1 << 30  # bytes at most that a cluster of our own shares objects by; ranks send in small parts
_TOKEN = secrets.token_hex(32)  # Ray keeps the first one that a process reads
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_DEDUP_LOGS": "0"}
_OWN = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a cluster of one machine: everything listens on 127.0.0.1 alone
    "RAY_memory_monitor_refresh_ms": "0",  # ranks are not ended for the memory that others take
}
_PASSED = (
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "TOKENIZERS_",
    "TORCH_",
    "PYTORCH_",
    "CUBLAS_",
    "NCCL_",
    "GLOO_",
    "MKL_",
    "PYTHONHASHSEED",
)


@dataclass(slots=True)
class Cluster:
    """A connection that ``leave`` ends, and a cluster of our own with it."""

    where: str
    own: Path | None  # the folder of a cluster that was started for these ranks
    borrowed: bool  # the program had connected before: it stays so
    before: Mapping[str, str | None]  # the environment as it was

    def leave(self) -> None:
        """Disconnect; fine to call twice."""
        if not self.borrowed:
            loaded_ray().shutdown()
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self.own is not None:
            shutil.rmtree(self.own, ignore_errors=True)


def loaded_ray() -> Any:
    """The package; it is an extra."""
    return importlib.import_module("ray")


def connect(wanted: str, cpus: int) -> Cluster:
    """The cluster that ``cluster.ray`` names. ``cpus``: what a cluster of our own says it has at least. Raises ConfigError where there is
    none at the address."""
    address = running_cluster(os.environ) if wanted == "auto" else wanted
    if address and not _listens(address):  # Ray would try for minutes
        what = f"cluster.ray={wanted}: nothing answers at {address}"
        raise ConfigError(
            what, "look with `ray status`; `ray start --head` starts a cluster, and cluster.ray=auto one of this machine alone"
        )
    folder = None if address or _connected() else Path(tempfile.mkdtemp(prefix="keel-ray-"))
    before = _set({**_QUIET, **(_OWN | {"RAY_AUTH_TOKEN_PATH": str(_token(folder))} if folder is not None else {})})
    ray = loaded_ray()  # it reads the environment once: after it is set
    if ray.is_initialized():
        return Cluster("the cluster that this program is connected with", None, True, before)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    found = Cluster(address, folder, False, before)
    try:
        if folder is None:
            ray.init(address, **quiet)
            return found
        found.where = "a cluster of this machine"
        store, most = max(1 << 27, min(_STORE, _memory() // 10)), max(cpus, os.cpu_count() or 1)
        here: dict[str, Any] = {"_temp_dir": str(folder), "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        ray.init("local", num_cpus=most, object_store_memory=store, **here, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError, ray.exceptions.RayError) as error:
        found.leave()
        what = f"cluster.ray={wanted}: {found.where} cannot be used: {first_line(error)}"
        raise ConfigError(what, "look with `ray status` whether it is well") from None
    return found


def running_cluster(environment: Mapping[str, str]) -> str:
    """The address of the cluster that RAY_ADDRESS names or that ``ray start`` began on this machine; empty where there is none that
    listens. Clusters that other programs started for themselves do not count: they end with those."""
    if named := environment.get("RAY_ADDRESS", ""):
        return named
    folder = environment.get("RAY_TMPDIR") or (sys.platform.startswith("linux") and environment.get("TMPDIR")) or "/tmp"
    try:
        address = (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return address if _listens(address) else ""  # else it ended without a word


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_S).close()
    except (OSError, ValueError):
        return False
    return True


def worker_environment(threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What the processes of ranks find in their environment beside what their machine has."""
    passed = {name: value for name, value in environment.items() if name.startswith(_PASSED)}
    paths = [str(Path(__file__).parents[2]), *filter(None, [environment.get("PYTHONPATH")])]
    return {**passed, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _token(folder: Path) -> Path:
    """Who may command a cluster of our own; Ray would keep one in the home folder."""
    path = folder / "auth_token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_TOKEN)
    return path


def _set(wanted: Mapping[str, str]) -> dict[str, str | None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    return before


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
