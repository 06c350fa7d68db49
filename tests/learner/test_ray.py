"""Ranks on two nodes of a Ray cluster: equal to one process, and a node that dies."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_two_nodes(tmp_path: Path, root: Path) -> None:
    """In a process of its own: Ray reads its environment once."""
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(here)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "two_nodes.py"), str(tmp_path)]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "no room: 8 ranks of 1 threads need 8 CPUs, and the Ray cluster has 2"
    assert said[1] == "equal on two nodes"
    lost = [line for line in said if line.startswith("lost: rank ")]
    assert lost
    assert "the others were ended" in lost[0]
    assert said[-1] == "equal on a new node"
