"""Ranks on two nodes of a Ray cluster, both on this machine: ``two_nodes.py FOLDER``. Prints a line for each thing that held."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

TEMP = tempfile.mkdtemp(prefix="two")  # short: sockets lie in it
os.environ.update(RAY_TMPDIR=TEMP, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")

import torch  # noqa: E402 - Ray reads the environment when it is loaded
from ray.cluster_utils import Cluster  # noqa: E402
from test_ranks import BY_NAME, compare  # noqa: E402

from keel.core.errors import ConfigError, RankLostError  # noqa: E402
from keel.learner.config import ClusterConfig  # noqa: E402
from keel.learner.hosts import host_of  # noqa: E402

CPU, STORE = torch.device("cpu"), 100_000_000
CASE = BY_NAME["sft"]


def main(folder: Path) -> None:
    """One CPU a node: the ranks must lie on two."""
    torch.set_num_threads(2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE})
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    try:
        try:
            host_of(ClusterConfig(ranks=8, ray=cluster.address), CPU)
        except ConfigError as error:
            print("no room:", error.message)
        host = host_of(ClusterConfig(ranks=2, ray=cluster.address), CPU)
        host.check_shared(folder)
        compare(CASE, host, steps=1)
        print("equal on two nodes")
        many = CASE.over(host)
        cluster.remove_node(node, allow_graceful=False)
        try:
            many.forward_backward(CASE.given, CASE.objective)
        except RankLostError as error:
            print("lost:", error.message)
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
        host = host_of(ClusterConfig(ranks=2, ray=cluster.address), CPU)
        compare(CASE, host, steps=1)
        host.close()
        print("equal on a new node")
    finally:
        cluster.shutdown()
        shutil.rmtree(TEMP, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
