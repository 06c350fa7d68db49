"""The sample that people check: which verdicts are drawn, what is written, and how far people agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.cli import main
from keel.core.errors import DataError
from keel.evaluate.statistics import wilson
from keel.rewards.checks import Verdict, drawn, verdict_file, write
from keel.rewards.detectors.found import ERROR_TYPES, Found
from keel.rewards.sources.hallucination import CheckConfig, HallucinationReward, HallucinationSource
from keel.types import Encoded, ImagePart, Message, Prompt, Rollout, TextPart, empty_group
from keel.verbs.eval_hallucination.agreement import measured, run_agreement


def verdict(i: int, wrong: bool = False) -> Verdict:
    return Verdict(str(i), f"a dog {i}", ("existence",), [("existence", "dog")] if wrong else [], "What?", ("a.png",))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_draw_is_a_hash() -> None:
    verdicts = [verdict(i) for i in range(4000)]
    chosen = drawn(verdicts, 0.05, 0)
    assert abs(len(chosen) - 200) < 4.5 * math.sqrt(4000 * 0.05 * 0.95)
    assert drawn(reversed(verdicts[:500]), 0.05, 0)[::-1] == [v for v in chosen if int(v.id) < 500]  # whatever the others are
    assert set(map(id, chosen)) <= set(map(id, drawn(verdicts, 0.2, 0)))
    assert drawn(verdicts, 0.05, 1) != chosen
    assert drawn(verdicts, 1, 0) == verdicts
    assert drawn(verdicts, 0, 0) == []


def test_tasks_do_not_tell_the_verdict(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", [verdict(1, wrong=True), verdict(2)])
    tasks, verdicts = lines(tmp_path / "t.jsonl"), lines(verdict_file(tmp_path / "t.jsonl"))
    assert tasks[0]["item"] == {"id": "1", "images": ["a.png"], "prompt": "What?", "text": "a dog 1"}
    assert tasks[0]["answers"] == {"existence": None}
    assert {k: v for k, v in tasks[0].items() if k not in ("item", "task_id")} == {
        k: v for k, v in tasks[1].items() if k not in ("item", "task_id")
    }
    assert [v["found"] for v in verdicts] == [{"existence": True}, {"existence": False}]
    assert [v["task_id"] for v in verdicts] == [t["task_id"] for t in tasks]


def test_agreement_by_hand() -> None:
    """Existence: 8 tasks, people 5 yes, measure 4 yes, both yes 4, both no 3: agreement 7/8, kappa (7/8 - 1/2) / (1 - 1/2)."""
    people = ["yes"] * 5 + ["no"] * 3 + ["unsure", None]
    automatic = [True] * 4 + [False] * 4 + [True, True]
    answers = {str(i): {"existence": p, "count": "no"} for i, p in enumerate(people)}
    verdicts = {str(i): {"existence": a, "count": False} for i, a in enumerate(automatic)}
    found = measured(answers, verdicts)
    existence = found["types"]["existence"]
    assert existence["n"] == 8
    assert existence["agreement"] == wilson(7, 8).to_json()
    assert existence["kappa"] == pytest.approx(0.75)
    assert (existence["people"], existence["automatic"], existence["unsure"]) == (5 / 8, 4 / 8, 1)
    assert found["types"]["count"]["kappa"] is None  # all are the same
    assert found["types"]["any"]["n"] == 8
    assert found["answered"] == 10


def test_from_captions_to_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"image_id": i, "caption": "a cat" if i % 2 else "a dog", "objects": ["dog"]} for i in range(60)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "objects.txt").write_text("dog\ncat\n")
    command = ["eval", "hallucination", str(tmp_path / "c.jsonl"), "--measure", "chair", f"objects={tmp_path}/objects.txt", "draws=100"]
    assert main([*command, "--check-sample", "0.5"]) == 0
    tasks = tmp_path / "c.checks.jsonl"
    n = len(lines(tasks))
    assert f"{n} of 60 verdicts are tasks" in capsys.readouterr().out
    assert 15 <= n <= 45
    assert main(["eval", "hallucination", "--agreement", str(tasks)]) == 2
    assert "nobody has answered yet" in capsys.readouterr().err
    said = lines(tasks)
    for row in said:
        row["answers"]["existence"] = "yes" if "cat" in row["item"]["text"] else "no"
    tasks.write_text("".join(json.dumps(r) + "\n" for r in said))
    assert main(["eval", "hallucination", "--agreement", str(tasks), "--json", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["types"]["existence"]["kappa"] == 1.0
    assert main([*command, "--check-sample", "0.5"]) == 2  # what people wrote is not overwritten
    assert "is there already" in capsys.readouterr().err
    assert main([*command, "seed=3"]) == 2
    assert "seed would have no effect without --check-sample" in capsys.readouterr().err
    tasks.unlink()
    assert main(["eval", "hallucination", str(tmp_path / "c.jsonl"), "--measure", "pope", "--check-sample", "0.5"]) == 2
    assert "check_sample is read by chair" in capsys.readouterr().err
    assert main(["eval", "hallucination", str(tmp_path / "c.jsonl")]) == 2
    assert "FILE and --measure are needed" in capsys.readouterr().err


def test_answers_that_cannot_be_read_are_told_by_line(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    write(file, [verdict(1)])
    row = lines(file)[0]
    for change, told in (
        ({"answers": {"existence": "maybe"}}, r"t\.jsonl:1: answers\.existence is 'maybe'"),
        ({"kind": "other"}, "no task of a check sample"),
        ({"task_id": "gone", "answers": {"existence": "yes"}}, "task gone has no verdict"),
    ):
        file.write_text(json.dumps({**row, **change}) + "\n")
        with pytest.raises(DataError, match=told):
            run_agreement(str(file))
    file.write_text("".join(json.dumps({**row, "answers": {"existence": a}}) + "\n" for a in ("yes", "no")))
    with pytest.raises(DataError, match="stands twice"):
        run_agreement(str(file))


def test_a_reward_leaves_tasks_while_training(tmp_path: Path) -> None:
    file = tmp_path / "checks.jsonl"

    def detect(prompt: Prompt, text: str) -> Found:
        return Found([("count", 0, 3)], 1.0)

    config = HallucinationReward(name="made_up", detector="x.py:fn", checks=CheckConfig(file=str(file), share=0.5))
    source = HallucinationSource("made_up", config, detect)
    ones = torch.ones(1)
    rollouts = [Rollout("p", 2, i, ones.long(), ones.bool(), ones, ones.long(), "stop", f"two dogs {i}") for i in range(40)]
    prompt = Prompt("p", (Message("user", (ImagePart("a.png"), TextPart("What?"))),))
    group = empty_group(prompt, Encoded(torch.tensor([1])), rollouts)
    scores = source.score([group])
    tasks = lines(file)
    assert 8 <= len(tasks) <= 32
    assert tasks[0]["item"]["images"] == ["a.png"]
    assert list(tasks[0]["answers"]) == list(ERROR_TYPES)
    assert lines(verdict_file(file))[0]["errors"] == [["count", "two"]]
    source.score([group])  # a run that goes on scores again: the same tasks
    assert {t["task_id"] for t in lines(file)} == {t["task_id"] for t in tasks}
    none = HallucinationSource("made_up", HallucinationReward(name="made_up", detector="x.py:fn"), detect)
    assert torch.equal(none.score([group])[0], scores[0])
