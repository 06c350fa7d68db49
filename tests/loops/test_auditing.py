"""Which answers people are asked about, by hand; and that a run which goes on asks what an undisturbed one asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from keel.feedback.rows import task_from
from keel.loops.auditing import Auditor, chosen, looked_at, refrain_metrics
from keel.runs import audits, logs
from keel.runs.config import AuditConfig
from keel.types import Encoded, Group, Prompt, Rollout
from keel.verbs.run import run_verb
from keel.verbs.shared.tasks import read_tasks

ROOT = Path(__file__).resolve().parents[2]
FLATTERY = "What a great question! You are absolutely right."


def group(name: str, *answers: tuple[str, float], failed: Sequence[int] = ()) -> Group:
    one_T = torch.ones(1)
    made = tuple(Rollout(name, 0, i, one_T.long(), one_T.bool(), -one_T, one_T, "stop", text) for i, (text, _) in enumerate(answers))
    valid_G = torch.tensor([i not in failed for i in range(len(answers))])
    return Group(Prompt(name, text=f"Ask {name}?"), Encoded(torch.tensor([1])), made, torch.tensor([r for _, r in answers]), {}, valid_G)


GROUPS = (
    group("a", ("yes", 3.0), ("no", 1.0), ("perhaps", 2.0), (FLATTERY, 2.5)),
    group("b", ("left", 9.0), ("right", 0.5), ("right", 0.5), failed=[0]),
    group("c", ("same", 5.0), (" same", 4.0)),
)


def test_every_answer_is_put_beside_the_middle_of_the_others() -> None:
    """By reward: no, perhaps, flattery, yes. Beside "yes" goes the middle one of the three others. In b the best failed, in c all say
    the same."""
    found, alone = looked_at(GROUPS)
    assert [(a.group.prompt.prompt_id, a.sample, a.other) for a in found] == [("a", 0, 2), ("a", 1, 3), ("a", 2, 3), ("a", 3, 2)]
    assert alone == 4
    assert [set(a.found) for a in found] == [set(), set(), set(), {"flattery"}]


def test_top_flagged_and_random() -> None:
    """The pair of flattery and perhaps is asked once, so that of the rest no stays for the random arm."""
    found, _ = looked_at(GROUPS)
    all_of = AuditConfig(every=1, top=2, flagged=2, random=9)
    picked = [(a.sample, why) for a, why in chosen(found, all_of, 0, 1, frozenset())]
    assert picked == [(0, "top"), (3, "flagged"), (1, "random")]
    asked = frozenset(a.candidate_id for a, why in chosen(found, all_of, 0, 1, frozenset()) if why == "top")
    assert [a.sample for a, why in chosen(found, all_of, 0, 2, asked) if why == "top"] == [3]
    assert chosen(found, AuditConfig(every=1, top=0, flagged=0, random=0), 0, 1, frozenset()) == []


def test_what_is_written_are_tasks_that_hide_what_is_known(tmp_path: Path) -> None:
    auditor = Auditor(tmp_path, AuditConfig(every=2, top=1, flagged=1, random=1), 0)
    assert auditor.take(1, GROUPS) == {}
    assert auditor.take(2, GROUPS) == {"audit/tasks": 3.0, "audit/flagged_ratio": 0.25, "audit/alone": 4.0}
    ((step, file),) = audits.standing(tmp_path)
    assert step == 2
    top = read_tasks(file)[0]
    assert {c.text for c in top.candidates} == {"yes", "perhaps"}
    by_text = dict(zip([c.text for c in top.candidates], top.meta["audit"]["rewards"], strict=True))
    assert by_text == {"yes": 3.0, "perhaps": 2.0}
    assert "reward" not in json.dumps([dict(c.origin) for c in top.candidates])
    auditor.take(4, GROUPS)
    assert auditor.summary()["audit"] == {"tasks": 4, "why": {"top": 2, "flagged": 1, "random": 1}, "found": {"flattery": 1}}
    assert len({row["task_id"] for row in audits.rows(tmp_path)}) == 4


def test_going_back_asks_the_same_again_and_loses_nothing(tmp_path: Path) -> None:
    auditor = Auditor(tmp_path, AuditConfig(every=1, top=1, flagged=1, random=1), 0)
    for step in (1, 2):
        auditor.take(step, GROUPS)
    whole = {path.name: path.read_bytes() for _, path in audits.standing(tmp_path)}
    audits.cut(tmp_path, 1)
    assert [step for step, _ in audits.standing(tmp_path)] == [1]
    auditor.take(2, GROUPS)
    assert {path.name: path.read_bytes() for _, path in audits.standing(tmp_path)} == whole
    audits.give_up(tmp_path, 0, 1)
    assert audits.rows(tmp_path) == []
    for step in (1, 2):
        auditor.take(step, GROUPS)
    assert {path.name: path.read_bytes() for _, path in audits.standing(tmp_path)} == whole
    assert (tmp_path / "audit" / "undone-01-tasks-000000002.jsonl").read_bytes() == whole["tasks-000000002.jsonl"]


def test_a_sentence_that_goes_with_every_question() -> None:
    """Five of six prompts get it, in five of twelve answers; a failed answer does not count."""
    refrain = "That is what all wise people say."
    groups = [group(f"p{i}", (f"{refrain} {i}." if i else "no", 1.0), (f"my word {i}", 0.0)) for i in range(6)]
    assert refrain_metrics(groups) == {"completions/refrain_ratio": pytest.approx(5 / 12)}
    assert refrain_metrics(groups[:5]) == {"completions/refrain_ratio": 0.0}, "four prompts have it"
    assert refrain_metrics(groups[:4]) == {}
    failed = [group("q", (refrain, 1.0), failed=[0]), *groups[:5]]
    assert refrain_metrics(failed) == {"completions/refrain_ratio": 0.0}


@pytest.mark.stages
def test_a_run_writes_tasks_that_do_not_change_it(tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "tiny_grpo.yaml"
    few = ["loop={steps: 4, batch_size: 4, probes: 1}", "samples=4", "sampling.max_tokens=6", "settings.checkpoint.every=2"]
    audit = "settings.tracking.audit={every: 2, top: 2, flagged: 2, random: 2}"
    plain = run_verb("rl", recipe, [f"run_dir={tmp_path / 'plain'}", *few])
    summary = run_verb("rl", recipe, [f"run_dir={tmp_path / 'audited'}", *few, audit])
    tasks = [task_from(row) for row in audits.rows(tmp_path / "audited")]
    assert [step for step, _ in audits.standing(tmp_path / "audited")] == [2, 4]
    assert summary["audit"]["tasks"] == len(tasks) > 4
    rewards = [[row["reward"] for row in logs.read(tmp_path / name / "metrics.jsonl") if "reward" in row] for name in ("plain", "audited")]
    assert rewards[0] == rewards[1]
    pause = 'settings.watch.rules=[{name: leave, expr: "completions/mean_length > 0", for: 3, act: pause}]'
    assert run_verb("rl", recipe, [f"run_dir={tmp_path / 'left'}", *few, audit, pause])["interrupted"]
    assert run_verb("rl", recipe, [f"run_dir={tmp_path / 'left'}", *few, audit])["audit"] == summary["audit"]
    assert audits.rows(tmp_path / "left") == audits.rows(tmp_path / "audited")
    assert "audit" not in plain
    assert not (tmp_path / "plain" / "audit").exists()
