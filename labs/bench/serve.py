"""What serving costs: many clients stream answers from `keel serve policy`, beside the plain sampler on the same prompts as one batch.

    python -m labs.bench.serve --model tiny:llama --clients 1 8 32

Of the server: tokens a second of all clients together, the time to the first token (p50, p99), processor time of a token in the worker (the
model) and in the front (HTTP, JSON, events). Of the sampler: the same batch, drawn by `rollout.local.LocalSampler` in a process that does
nothing else. Both take turns; medians over ``--repeats``. Linux: processor times are read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.json_lines import lines_in

QUESTION = "Question {i}: what would you take along on a walk of {i} hours?"


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, with its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Served:
    """A server with its worker, each a process of its own."""

    def __init__(self, model: str, threads: int, rows: int) -> None:
        command = [sys.executable, "-m", "keel.cli", "serve", "policy", model, "--port", "0", f"threads={threads}"]
        self.process = subprocess.Popen([*command, f"queue.rows={rows}", "queue.waiting=256"], stdout=subprocess.PIPE, text=True)
        found = re.search(r"http://\S+/v1", self.process.stdout.readline() if self.process.stdout else "")
        if found is None:
            raise SystemExit("the server did not start")
        self.url = found.group()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.worker = int(children[0])

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


@dataclass(frozen=True, slots=True)
class Streamed:
    """One answer as a client saw it."""

    first_s: float
    tokens: int


async def stream(client: Any, url: str, i: int, tokens: int) -> Streamed:
    """Ask once, and read to the end. The first event with text of the answer, or its end, is the first token."""
    body = {"messages": [{"role": "user", "content": QUESTION.format(i=i)}], "max_tokens": tokens, "seed": i, "stream": True}
    began, first, drawn = time.perf_counter(), 0.0, 0
    async with client.stream("POST", url + "/chat/completions", json=body | {"stream_options": {"include_usage": True}}) as answer:
        answer.raise_for_status()
        async for line in lines_in(answer.aiter_bytes()):
            if not line.startswith("data: {"):
                continue
            said = json.loads(line[6:])
            if "error" in said:
                raise RuntimeError(said["error"]["message"])
            if not first and any(c["delta"].get("content") or c["finish_reason"] for c in said["choices"]):
                first = time.perf_counter() - began
            drawn = said["usage"]["completion_tokens"] if said.get("usage") else drawn
    return Streamed(first, drawn)


async def crowd(url: str, clients: int, each: int, tokens: int) -> list[Streamed]:
    """``clients`` at a time, each with ``each`` questions one after the other."""
    import httpx

    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:

        async def one(k: int) -> list[Streamed]:
            return [await stream(client, url, k + clients * j, tokens) for j in range(each)]

        return [s for found in await asyncio.gather(*(one(k) for k in range(clients))) for s in found]


def of_server(served: Served, clients: int, each: int, tokens: int) -> dict[str, Any]:
    """One measurement of the server."""
    before, began = (cpu_s(served.worker), cpu_s(served.process.pid)), time.perf_counter()
    found = asyncio.run(crowd(served.url, clients, each, tokens))
    wall, drawn = time.perf_counter() - began, sum(s.tokens for s in found)
    used = cpu_s(served.worker) - before[0], cpu_s(served.process.pid) - before[1]
    costs = {"worker_ms_per_token": 1000 * used[0] / drawn, "front_ms_per_token": 1000 * used[1] / drawn}
    return {"tokens_per_s": drawn / wall, "first_s": [s.first_s for s in found], **costs}


class Sampler:
    """The plain sampler in a process of its own, asked over its standard input."""

    def __init__(self, model: str, threads: int) -> None:
        command = [sys.executable, "-m", "labs.bench.serve", "--model", model, "--threads", str(threads), "--sampler"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, questions: Sequence[int], tokens: int) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([list(questions), tokens]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=120)


def sample(model: str, threads: int) -> None:
    """The side of ``Sampler``: batches in, times out, until the input ends."""
    import torch

    from keel.models.config import ModelOptions
    from keel.models.loading import load_model
    from keel.render.config import RenderConfig
    from keel.rollout.local import LocalSampler
    from keel.types import Message, Prompt, SampleRequest, SamplingParams
    from keel.verbs.shared.session import renderer_of

    torch.set_num_threads(threads)
    loaded = load_model(model, ModelOptions())
    loaded.model.freeze()
    renderer = renderer_of(loaded, RenderConfig())
    sampler = LocalSampler(loaded.model, renderer.decode)
    for line in sys.stdin:
        questions, tokens = json.loads(line)
        params = SamplingParams(max_tokens=tokens, stop_tokens=renderer.stop_tokens)
        prompts = [renderer.prompt(Prompt(str(i), (Message("user", QUESTION.format(i=i)),)), reserve=tokens) for i in questions]
        began, used = time.perf_counter(), time.process_time()
        sampler.submit([SampleRequest(str(i), prompt, 1, params, 0, 0) for i, prompt in zip(questions, prompts, strict=True)])
        drawn = sum(len(rollout.tokens_T) for rollout in sampler.collect())
        wall = time.perf_counter() - began
        print(json.dumps({"tokens_per_s": drawn / wall, "ms_per_token": 1000 * (time.process_time() - used) / drawn}), flush=True)


def measure(served: Served, sampler: Sampler, clients: int, each: int, tokens: int, repeats: int) -> dict[str, float]:
    """Both sides in turns; medians, and the times to the first token of all repeats together."""
    server, plain = list[dict[str, Any]](), list[dict[str, float]]()
    for _ in range(repeats):
        server.append(of_server(served, clients, each, tokens))
        plain.append(sampler.ask(range(clients), tokens))
    first = sorted(s for one in server for s in one["first_s"])
    found = {k: statistics.median(one[k] for one in server) for k in ("tokens_per_s", "worker_ms_per_token", "front_ms_per_token")}
    found |= {"first_p50_s": statistics.median(first), "first_p99_s": first[min(len(first) - 1, int(0.99 * len(first)))]}
    return found | {f"sampler_{k}": statistics.median(one[k] for one in plain) for k in ("tokens_per_s", "ms_per_token")}


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--model", default="tiny:llama", help="as of keel serve policy")
    top.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="at a time")
    top.add_argument("--each", type=int, default=3, help="questions of a client, one after the other")
    top.add_argument("--tokens", type=int, default=64, help="longest answer")
    top.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the model, on both sides")
    top.add_argument("--repeats", type=int, default=3)
    top.add_argument("--sampler", action="store_true", help=argparse.SUPPRESS)
    args = top.parse_args()
    if args.sampler:
        sample(args.model, args.threads)
        return
    served, sampler = Served(args.model, args.threads, max(args.clients)), Sampler(args.model, args.threads)
    try:
        for side in (1, max(args.clients)):  # what is made at the first use is made
            of_server(served, side, 1, args.tokens)
            sampler.ask(range(side), args.tokens)
        for clients in args.clients:
            print(json.dumps({"clients": clients} | measure(served, sampler, clients, args.each, args.tokens, args.repeats)), flush=True)
    finally:
        served.close()
        sampler.close()


if __name__ == "__main__":
    main()
