"""A reward that is unsure asks a person: which answers, how many a step, where the tasks go, and who refuses the setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.feedback.db import Store
from keel.rewards.sources.model import AskConfig
from keel.types import Encoded, Group, Prompt, Rollout
from keel.verbs.run import run_verb
from keel.verbs.shared.asking import Asker
from keel.verbs.shared.tasks import read_tasks

ROOT = Path(__file__).resolve().parents[2]


def group(name: str, spreads: list[float], texts: list[str] | None = None) -> Group:
    texts = texts or [f"answer {i} to {name}" for i in range(len(spreads))]
    one = torch.tensor([1])
    rollouts = tuple(
        Rollout(name, 0, i, one, torch.ones(1, dtype=torch.bool), torch.zeros(1), torch.zeros(1, dtype=torch.long), "stop", text)
        for i, text in enumerate(texts)
    )
    parts = {"judge": torch.zeros(len(texts)), "judge/epistemic": torch.tensor(spreads)}
    prompt = Prompt(name, text=f"Question {name}?")
    return Group(prompt, Encoded(one), rollouts, torch.zeros(len(texts)), parts, torch.ones(len(texts), dtype=torch.bool))


def test_the_most_doubtful_are_asked_about_beside_the_surest(tmp_path: Path) -> None:
    asker = Asker("judge", AskConfig(above=0.5, per_step=2), tmp_path / "asked.jsonl")
    asker([group("a", [0.1, 0.9, 0.6]), group("b", [0.5, 0.2, float("nan")]), group("c", [0.7, 0.3])])
    tasks = read_tasks(tmp_path / "asked.jsonl")
    assert [(t.prompt.prompt_id, t.meta["asked"]["spread"]) for t in tasks] == [("a", 0.9), ("c", 0.7)]
    assert {c.text for c in tasks[0].candidates} == {"answer 1 to a", "answer 0 to a"}
    assert (asker.asked, asker.unsure) == (2, 3)  # 0.5 is not above 0.5
    asker([group("a", [0.1, 0.9, 0.6]), group("c", [0.7, 0.3])])
    assert [t.meta["asked"]["spread"] for t in read_tasks(tmp_path / "asked.jsonl")] == [0.9, 0.7, 0.6]  # nothing twice
    asker([group("a", [0.1, 0.9, 0.6])])
    assert asker.asked == 3


def test_the_same_text_is_no_pair_and_other_rewards_do_not_ask(tmp_path: Path) -> None:
    asker = Asker("judge", AskConfig(above=0.5), tmp_path / "asked.jsonl")
    asker([group("a", [0.1, 0.9], ["same", "same "])])
    assert asker.asked == 0
    Asker("other", AskConfig(above=0.5), tmp_path / "other.jsonl")([group("a", [0.1, 0.9])])
    assert not (tmp_path / "other.jsonl").exists()


def test_an_interrupted_run_goes_on_with_what_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    Asker("judge", AskConfig(above=0.5), file)([group("a", [0.1, 0.9])])
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:40])  # half a line
    again = Asker("judge", AskConfig(above=0.5), file)
    again([group("a", [0.1, 0.9]), group("b", [0.1, 0.8])])
    assert [t.prompt.prompt_id for t in read_tasks(file)] == ["a", "b"]
    assert again.asked == 2


def test_tasks_go_to_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'f.db'}"
    asker = Asker("judge", AskConfig(above=0.5, store=url, campaign="doubts", people=2), tmp_path / "asked.jsonl")
    for _ in range(2):
        asker([group("a", [0.1, 0.9])])
    with Store(url) as store:
        assert store.progress("doubts")["items"] == 1
        assert store.campaign("doubts").wanted == 2
    assert not (tmp_path / "asked.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [("{above: 1, tasks: a, store: b}", "two places"), ("{above: 1, people: 2}", "without store"), ("{above: 0}", "above")],
)
def test_settings_that_cannot_work_are_refused(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(AskConfig, None, [x.strip().replace(": ", "=") for x in given.strip("{}").split(",")])


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, proofs: None) -> Path:
    """A reward model with three heads."""
    out = tmp_path_factory.mktemp("reward") / "run"
    short = [
        "loop={steps: 1, batch_size: 2, eval_at_start: false}",
        "settings={threads: 1}",
        "model_options.precision=fp32",
        "head.members=3",
    ]
    run_verb(
        "reward",
        ROOT / "recipes" / "tiny_reward.yaml",
        [*short, f"data.path={ROOT / 'recipes' / 'tiny' / 'pairs.jsonl'}", f"run_dir={out}"],
    )
    return out / "final"


def rl(judge: Path, out: Path, ask: str) -> dict[str, Any]:
    rewards = f"rewards=[{{type: model, name: judge, path: '{judge}', ensemble: {{ask: {ask}}}}}]"
    short = [
        "loop={steps: 2, batch_size: 2, eval_every: 1, probes: 1}",
        "settings={threads: 1}",
        "model_options.precision=fp32",
        "samples=4",
    ]
    data = f"data.path={ROOT / 'recipes' / 'tiny' / 'prompts.jsonl'}"
    return run_verb("rl", ROOT / "recipes" / "tiny_grpo.yaml", [*short, data, "sampling.max_tokens=6", rewards, f"run_dir={out}"])


def test_rl_asks_in_training_alone_and_at_most_so_often_a_step(judge: Path, proofs: None, tmp_path: Path) -> None:
    summary = rl(judge, tmp_path / "rl", "{above: 0.001, per_step: 3}")
    tasks = read_tasks(tmp_path / "rl" / "asked.jsonl")
    told = summary["asked_people"]["judge"]
    assert len(tasks) == told["tasks"] == 6  # two steps of three; the evaluations ask nobody
    assert told["unsure"] > 6
    held = {json.loads(line)["prompt_id"] for line in (ROOT / "recipes/tiny/prompts.jsonl").read_text().splitlines() if "prompt_id" in line}
    assert {t.prompt.prompt_id for t in tasks} <= held or not held
    assert rl(judge, tmp_path / "none", "{above: 1000}")["asked_people"]["judge"] == {"unsure": 0, "tasks": 0}


def test_who_asks_nobody_refuses_the_setting(judge: Path, proofs: None, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "Say tea."}\n{"prompt": "Say rain."}\n', encoding="utf-8")
    (tmp_path / "r.yaml").write_text(
        f"model: tiny:llama?seed=1\nbaseline: tiny:llama?seed=1\nmodel_options: {{precision: fp32}}\nsettings: {{threads: 1}}\n"
        f"evaluate: {{prompts: [{prompts}], max_tokens: 4}}\n"
        f"rewards: [{{type: model, name: j, path: '{judge}', ensemble: {{ask: {{above: 1}}}}}}]\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"ensemble\.ask would have no effect"):
        run_verb("eval", tmp_path / "r.yaml", [f"run_dir={tmp_path / 'eval'}"])
