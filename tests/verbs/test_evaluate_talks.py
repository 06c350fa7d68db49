"""`keel eval` with an environment: whole conversations, success and reward with intervals, all turns on the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.evaluate.config import EvaluateConfig
from keel.types import SamplingParams
from keel.verbs.run import RECIPES, run_verb

ROOT = Path(__file__).resolve().parents[2]
WORLD = "environment={path: 'tests/environments/worlds.py:Letters', max_turns: 3, max_tokens: 200, processes: 0}"
MODELS = ("rewards=[]", "others=[]", "evaluate={prompts: [recipes/tiny/eval_prompts.jsonl], limit: 6, samples: 2, max_tokens: 30}")


def test_conversations_are_measured_and_shown(
    proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    sampling = EvaluateConfig.sampling

    def ending(config: EvaluateConfig, stop: Sequence[int] = (), banned: Sequence[int] = ()) -> SamplingParams:
        return replace(sampling(config, stop, banned), stop=("e", "a", "i"))  # an untrained model ends no answer by itself

    monkeypatch.setattr(EvaluateConfig, "sampling", ending)
    summary = run_verb("eval", Path("recipes/tiny_eval.yaml"), [WORLD, *MODELS, f"run_dir={tmp_path}", "evaluate.success=0.3"])
    found = summary["environment"]
    assert list(found) == ["start", "tuned"]
    for told in found.values():
        assert told["conversations"] + told["failed"] == 12
        assert told["turns"]["mean"] > 1
        assert told["reward"]["low"] <= told["reward"]["mean"] <= told["reward"]["high"]
        assert 0 <= told["success"]["mean"] <= 1
    assert "change" in found["tuned"]
    assert summary["board"]["headline"] == "environment"
    assert "kl" not in summary
    said = capsys.readouterr().out
    assert "Conversations with the environment" in said
    rows = [json.loads(line) for line in (tmp_path / "samples/evaluation.jsonl").read_text().splitlines()]
    turns = max((a["turns"] for row in rows for a in row["after"]), key=len)
    assert [turn["role"] for turn in turns][:3] == ["assistant", "user", "assistant"]
    page = (tmp_path / "report.html").read_text()
    assert "user: die " in page
    assert "Conversations with the environment" in page


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("evaluate.shots=[0, 1]", "evaluate.shots reads or makes single answers"),
        ("ensemble={of: logits, models: [x]}", "ensemble reads or makes"),
        ("environment.weight=null", "nothing would tell success"),
        ("environment.max_tokens=10", "less than the 30 of one answer"),
        ("environment=null", "evaluate.success would have no effect"),
    ],
)
def test_what_a_conversation_cannot_have_is_refused(setting: str, match: str) -> None:
    more = ["evaluate.success=0.5"] if setting == "environment=null" else []
    shots = ["evaluate.shot_examples=recipes/tiny/eval_shots.jsonl"] if "shots" in setting else []
    with pytest.raises(ConfigError, match=match):
        load(RECIPES["eval"], ROOT / "recipes/tiny_eval.yaml", [WORLD, *MODELS, *more, setting, *shots])
