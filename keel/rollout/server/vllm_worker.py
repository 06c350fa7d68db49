"""What vLLM's workers learn to do for a training: take weights from a folder, and say what arrived. It runs inside vLLM, on its machine:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --worker-extension-cls keel.rollout.server.vllm_worker.Weights ...

Nothing of vLLM is imported here; of Keel, little enough that a machine with vLLM needs no other packages for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from keel.rollout.tied import tie_again
from keel.rollout.weight_digest import Named, Tally


class Weights:
    """vLLM gives its worker these methods too; they are called by name over ``/collective_rpc``."""

    model_runner: Any
    vllm_config: Any

    def keel_about(self) -> dict[str, Any]:
        """Which weights a training has put here (none since it was started: ""), and settings that decide whether it can use them."""
        mode = str(self.vllm_config.model_config.logprobs_mode)
        return {"digest": self.__dict__.get("keel_digest", ""), "logprobs_mode": mode}

    def keel_load(self, folder: str) -> dict[str, Any]:
        """Take over the saved weights in ``folder``: the digest of what was read; how many tokens each request under way had by then
        (``drawn``), and those that came and went since the last time (``ended``). It runs between two steps, so the tokens so far were
        drawn by the weights before, and the next ones are not."""
        runner, self.__dict__["keel_digest"] = self.model_runner, ""
        requests = runner.requests
        drawn = {name: len(request.output_token_ids) for name, request in requests.items()}
        ended = sorted(requests.seen - requests.keys()) if isinstance(requests, _Noted) else []
        runner.requests = _Noted(requests)
        tally = Tally()
        runner.reload_weights(weights_iterator=tally.over(saved(Path(folder))), is_checkpoint_format=True)
        tie_again(runner.get_model())
        self.__dict__["keel_digest"] = tally.digest()
        return {"digest": tally.digest(), "drawn": drawn, "ended": ended}


class _Noted(dict[str, Any]):
    """Requests by name, and the names of all that were there: what is over was drawn before, what never was there is to come."""

    def __init__(self, requests: dict[str, Any]) -> None:
        super().__init__(requests)
        self.seen = set(requests)

    def __setitem__(self, name: str, request: Any) -> None:
        super().__setitem__(name, request)
        self.seen.add(name)


def saved(folder: Path) -> Iterator[Named]:
    """The tensors of a saved model's files, one after the other, on the cpu."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                yield name, tensors.get_tensor(name)
