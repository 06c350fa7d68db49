"""`keel serve reward` with a real (tiny) model: every layout gives the scores of the model itself, and RL takes its rewards from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import load
from keel.core.errors import UserError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.renderer import Renderer
from keel.serve.config import ServeRewardConfig
from keel.types import Message, Prompt, Rating
from keel.verbs.serve_reward import make_server

ANSWERS = ["a red tent", "tent tent", "We walk home in the evening."]


@pytest.fixture(scope="module")
def final(finished) -> Path:
    return finished("reward") / "final"


@pytest.fixture(scope="module")
def server(final: Path):
    server = make_server(load(ServeRewardConfig, None, [f"model={final}", "port=0", "standardise=false", "model_options.precision=fp32"]))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.close()


def post(server: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_address[1]}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def expected(final: Path) -> tuple[list[float], list[str]]:
    """Scores by the library, and the same conversations as text in the model's template."""
    loaded = load_model(str(final), ModelOptions(precision="fp32"), heads=frozenset({"score"}))
    renderer = Renderer(loaded.tokenizer)
    prompt = Prompt("p", text="Write about a red tent.")
    units = [renderer.unit(Rating("r", prompt, (Message("assistant", a),), {"x": 0.0})) for a in ANSWERS]
    scores = [float(s[0]) for s in LocalInference(loaded.model, BatchConfig()).scores(units)]
    turns = [[{"role": "user", "content": "Write about a red tent."}, {"role": "assistant", "content": a}] for a in ANSWERS]
    return scores, [loaded.tokenizer.apply_chat_template(t, tokenize=False) for t in turns]


def test_keel_s_own_layout_renders_as_training_did(server, expected) -> None:
    found = post(server, "/score", {"items": [{"prompt": "Write about a red tent.", "completion": a} for a in ANSWERS]})
    assert found["scores"] == pytest.approx(expected[0], abs=1e-4)
    assert len(set(found["scores"])) == 3


def test_texts_in_a_template_get_the_same_score(server, expected) -> None:
    scores, texts = expected
    assert post(server, "/get_reward", {"query": texts})["rewards"] == pytest.approx(scores, abs=1e-4)
    begins = [t[: t.index("assistant")] for t in texts]
    assert post(server, "/get_reward", {"query": texts, "prompts": begins})["rewards"] == pytest.approx(scores, abs=1e-4)
    assert [r["probs"][0] for r in post(server, "/classify", {"model": "m", "input": texts})["data"]] == pytest.approx(scores, abs=1e-4)
    cut_off = [t[: t.rindex("<")] for t in texts]  # an answer that reached the length limit has no end token: it is closed
    assert post(server, "/classify", {"input": cut_off})["data"][0]["probs"][0] == pytest.approx(scores[0], abs=1e-4)


def test_an_answer_that_is_too_long_has_an_error_and_takes_no_other_with_it(final: Path) -> None:
    settings = [f"model={final}", "port=0", "render.max_total=48", "model_options.precision=fp32"]
    server = make_server(load(ServeRewardConfig, None, settings))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        found = post(server, "/score", {"items": [{"prompt": "long " * 200, "completion": "b"}, {"prompt": "a", "completion": "b"}]})
        assert found["scores"][0] is None
        assert "refused" in found["errors"][0]
        assert found["scores"][1] is not None
    finally:
        server.close()


def test_rl_takes_its_rewards_from_the_server(server, stage, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    remote = f"rewards=[{{type: remote, name: far, url: '{url}'}}]"
    short = ("loop.steps=1", "loop.eval_every=0", "held_out=0")
    first = stage("grpo", tmp_path / "remote", remote, *short)["last"]
    assert first["completions/failed_ratio"] == 0
    assert first["rewards/far/std"] > 0
    third = stage("grpo", tmp_path / "openrlhf", f"rewards=[{{type: remote, name: far, url: '{url}', layout: openrlhf}}]", *short)["last"]
    assert third["completions/failed_ratio"] == 0


def test_a_port_that_is_taken(server, final: Path) -> None:
    with pytest.raises(UserError, match="cannot listen at"):
        make_server(load(ServeRewardConfig, None, [f"model={final}", f"port={server.server_address[1]}"]))


def test_the_command_serves_until_it_is_told_to_stop(final: Path, root: Path) -> None:
    command = [sys.executable, "-m", "keel.cli", "serve", "reward", str(final), "--port", "0", "--json", "model_options.precision=fp32"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://"))
        request = urllib.request.Request(url + "/score", json.dumps({"items": [{"prompt": "a", "completion": "b"}]}).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert len(json.loads(answer.read())["scores"]) == 1
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(rest.splitlines()[-1])["scored"] == 1


def test_nothing_is_kept_between_requests(server) -> None:
    body = {"items": [{"prompt": "Write about a red tent.", "completion": a} for a in ANSWERS]}
    alone = [post(server, "/score", {"items": [item]})["scores"][0] for item in body["items"]]
    assert torch.tensor(alone).allclose(torch.tensor(post(server, "/score", body)["scores"]), atol=1e-4)
