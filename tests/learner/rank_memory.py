"""Memory of ranks that load a model: ``PYTHONPATH=. python tests/learner/rank_memory.py RANKS``. MB of a rank's own pages at their peak
while it loads, above those of a rank with a model of next to nothing, when ranks read their shares alone, and when each reads it whole."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from keel.core.json_lines import lines_of
from keel.learner.config import BatchConfig, ClusterConfig, OptimConfig
from keel.learner.hosts import host_of
from keel.learner.processes import Processes
from keel.learner.remote import RankLearner
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.model import Model

_OPTIONS = ModelOptions(precision="fp32", device="cpu")


def own_mb(pid: int) -> float:
    """Pages of a process that no file stands behind."""
    line = next(x for x in lines_of(Path(f"/proc/{pid}/status").read_text(encoding="utf-8")) if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def peak_mb(ranks: int, model: Model, shares: bool) -> float:
    """The largest of the ranks' peaks."""
    host = host_of(ClusterConfig(ranks=ranks), torch.device("cpu"))
    assert isinstance(host.group, Processes)
    pids, over, most = host.group.pids, threading.Event(), [0.0]

    def look() -> None:
        while not over.wait(0.002):
            most[0] = max(most[0], *(own_mb(pid) for pid in pids))

    if not shares:
        model.start_rows = [None]  # type: ignore[list-item] # as where files do not hold the weights as they are
    watching = threading.Thread(target=look)
    watching.start()
    try:
        RankLearner(host, "policy", model, OptimConfig(), BatchConfig(), 1, 0)
    finally:
        model.start_rows = []
        over.set()
        watching.join()
        host.close()
    return most[0]


def main(ranks: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    nothing = peak_mb(ranks, load_model("tiny:llama", _OPTIONS).model, shares=False)
    made = load_model("tiny:llama?hidden=512&layers=24", _OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        made.model.save(Path(folder), made.tokenizer)
        file = Path(folder) / "model.safetensors"  # as most models are published
        save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
        model = load_model(folder, _OPTIONS).model
        weights = sum(p.numel() for p in model.module.parameters()) * 4 / 2**20
        layer = sum(p.numel() for p in model.module.get_decoder().layers[0].parameters()) * 4 / 2**20
        print(f"weights {weights:.0f} MB, a layer {layer:.1f} MB, a process without them {nothing:.0f} MB")
        for name, shares in (("shares", True), ("whole", False)):
            print(f"{ranks} ranks, {name:6}: {peak_mb(ranks, model, shares) - nothing:.0f} MB more", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
