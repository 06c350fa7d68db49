"""What pages are told of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dash_tools import answer, make_run, steps, tell

from keel.dash import views
from keel.dash.folder import Folder, group_of
from keel.runs.lock import Lock
from keel.runs.rollouts import KeptRollout, Rollouts

Client = Callable[..., Any]


def _get(client: Any, path: str, **values: Any) -> Any:
    found = client.get(path, params=values)
    assert found.status_code == 200, found.text
    return found.json()


def test_states_of_runs(root: Path, client: Client) -> None:
    make_run(root / "done", steps(3), summary={"last_eval": {"eval/reward": 0.5}})
    held = make_run(root / "deep" / "held", steps(2))
    lock = Lock(held)
    left = make_run(root / "left", steps(2))
    tell(left, {"kind": "run_started", "step": 0, "total_steps": 9}, {"kind": "interrupted", "step": 2})
    make_run(root / "killed", steps(2))
    (root / "bad").mkdir()
    (root / "bad" / "manifest.json").write_text("{")
    (make_run(root / "done2", summary={}) / "checkpoints" / "5").mkdir(parents=True)
    (root / "done2" / "checkpoints" / "5" / "manifest.json").write_text("{}")  # no run of its own
    rows = {row["id"]: row for row in _get(client(), "/api/list")["rows"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "finished", "deep/held": "running", "left": "interrupted", "killed": "ended", "bad": "broken", "done2": "finished"
    }  # fmt: skip
    assert rows["done"]["numbers"][0] == ["eval/reward", 0.5]
    assert (rows["left"]["step"], rows["left"]["total"]) == (2, 9)
    lock.release()


def test_alarms_are_counted_by_level_and_undone_ones_are_not(root: Path, client: Client) -> None:
    run = make_run(root / "r", steps(3))
    tell(run, {"kind": "warning", "step": 1, "level": "warning"}, {"kind": "verdict", "step": 2, "level": "critical", "undone": 1})
    tell(run, {"kind": "emergency", "step": 2, "back_to": 1, "message": "kl"}, {"kind": "eval", "step": 2, "metrics": {"x": 1}})
    assert _get(client(), "/api/list")["rows"][0]["alarms"] == {"warning": 1, "critical": 1}
    told = _get(client(), "/api/events", r="r")["events"]
    assert [e["kind"] for e in told] == ["warning", "verdict", "emergency"]
    assert (told[1]["undone"], told[2]["back_to"], told[2]["level"]) == (1, 1, "critical")


def test_curves_of_two_runs_share_their_steps(root: Path, client: Client) -> None:
    make_run(root / "a", steps(3))
    make_run(root / "b", [{"step": 2, "reward": 9.0}, {"step": 4, "reward": "NaN"}])
    chart = _get(client(), "/api/curves", r=["a", "b"], c=json.dumps(["reward"]))["charts"][0]
    assert (chart["x"], chart["exact"]) == ([1, 2, 3, 4], True)
    a, b = chart["curves"]
    assert a["mean"] == [1.0, 2.0, 3.0, None]
    assert (b["mean"], b["holes"]) == ([None, 9.0, None, None], [[3, "NaN"]])
    assert "low" not in a


def test_a_spike_of_a_long_run_is_in_its_band(root: Path, client: Client) -> None:
    make_run(root / "r", steps(20_000, kl=lambda i: 50.0 if i == 12_345 else 0.5))
    found = _get(client(), "/api/curves", r="r", c=json.dumps(["kl"]), px=300)["charts"][0]
    (curve,) = found["curves"]
    assert len(found["x"]) == 300
    at = curve["high"].index(50.0)
    assert abs(found["x"][at] - 12_345) < 70
    assert max(curve["mean"]) < 2
    close = _get(client(), "/api/curves", r="r", c=json.dumps(["kl"]), px=300, low=12_300, high=12_400)["charts"][0]
    assert close["curves"][0]["mean"][close["x"].index(12_345)] == 50.0


def test_what_was_taken_back_is_in_the_picture(root: Path, client: Client) -> None:
    run = make_run(root / "r", steps(3, kl=0.1))
    (run / "abandoned.jsonl").write_text('{"rollback": 1, "step": 2, "kl": 4.9}\n{"rollback": 1, "step": 3, "kl": "NaN"}\n')
    chart = _get(client(), "/api/curves", r="r", c=json.dumps(["kl"]))["charts"][0]
    assert chart["lost"] == [{"run": "r", "metric": "kl", "points": [[2, 4.9, 4.9], [3, "NaN", "NaN"]]}]


def test_seeds_are_pooled_and_others_are_not(root: Path, client: Client) -> None:
    for seed in (1, 2, 3):
        make_run(root / f"s{seed}", [{"step": 1, "reward": float(seed)}], seed=seed, run_dir=f"runs/s{seed}", lr=0.1)
    make_run(root / "other", [{"step": 1, "reward": 8.0}], seed=1, lr=0.2)
    runs = ["s1", "s2", "s3", "other"]
    pooled, alone = _get(client(), "/api/curves", r=runs, c=json.dumps(["reward"]), pool=1)["charts"][0]["curves"]
    assert (pooled["n"], pooled["mean"], pooled["low"], pooled["high"]) == (3, [2.0], [1.0], [3.0])
    assert pooled["inner_high"] == [pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-4)]
    assert (alone["run"], alone["mean"]) == ("other", [8.0])
    table = _get(client(), "/api/compare", r=runs)
    row = next(row for row in table["numbers"] if row["name"] == "reward")
    assert row["pooled"][0] == {"mean": 2.0, "half": pytest.approx(4.302653 / 3**0.5), "n": 3}
    assert {row["name"] for row in table["settings"]} == {"seed", "lr"}


def test_runs_without_settings_are_no_seeds_of_each_other() -> None:
    assert group_of({}) == "" == group_of({"config": {}})


def test_a_distribution_over_time(root: Path, client: Client) -> None:
    make_run(root / "r", steps(2, reward_min=-1.0, reward_max=9.0, reward_std=0.5))
    assert _get(client(), "/api/view", r="r")["fans"] == ["fan_reward"]
    (curve,) = _get(client(), "/api/curves", r="r", c='"fan_reward"')["charts"][0]["curves"]
    assert (curve["low"], curve["mean"], curve["high"]) == ([-1.0, -1.0], [1.0, 2.0], [9.0, 9.0])
    assert (curve["inner_low"], curve["inner_high"]) == ([0.5, 1.5], [1.5, 2.5])


def test_every_metric_is_in_one_picture(root: Path, client: Client) -> None:
    names = ("kl", "kl/max", "kl/grounded", "kl/ungrounded", "eval/reward", "grad_norm", "odd", "time/step_s")
    make_run(root / "r", steps(2, **dict.fromkeys(names, 1.0)))
    view = _get(client(), "/api/view", r="r")
    shown = [n for chart in view["charts"] for n in chart["metrics"]] + view["rest"]
    assert sorted(shown) == sorted([*names, "reward"])
    assert ["kl/grounded", "kl/ungrounded"] in [chart["metrics"] for chart in view["charts"]]
    assert view["rest"] == ["odd", "time/step_s"]


def test_samples_over_time_and_the_worst(root: Path, client: Client) -> None:
    run = make_run(root / "r", steps(3))
    for step in (0, 5, 10, 15):
        answer(run, {"step": step, "prompt": "Why?", "text": f"at {step}", "reward": step / 10, "why": "fixed"})
    answer(
        run,
        {"step": 5, "prompt": "Who?", "text": "x" * 30_000, "reward": -1.0},
        {"step": 9, "prompt": "Who?", "text": "", "error": "too slow"},
    )
    (why, who) = _get(client(), "/api/prompts", r="r")["prompts"]
    assert (why["prompt"], why["n"], who["n"]) == ("Why?", 4, 2)
    (found,) = _get(client(), "/api/samples", r="r", prompt=why["id"])["runs"]
    assert ([a["text"] for a in found["answers"]], found["steps"]) == (["at 0", "at 10", "at 15"], [0, 5, 10, 15])
    (found,) = _get(client(), "/api/samples", r="r", prompt=why["id"], step=[5])["runs"]
    assert [a["text"] for a in found["answers"]] == ["at 5"]
    (bad,) = _get(client(), "/api/worst", r="r")["runs"]
    assert [a.get("reward") for a in bad["answers"]] == [None, -1.0, 0.0, 0.5, 1.0, 1.5]
    assert bad["answers"][0]["error"] == "too slow"
    assert (len(bad["answers"][1]["text"]), bad["answers"][1]["text_length"]) == (20_000, 30_000)


def test_failed_answers_are_the_worst_wherever_they_stand(root: Path, client: Client) -> None:
    run = make_run(root / "r", steps(1))
    rewards = [0.5, None, 0.1, "NaN", 0.9, None, -3.0, 0.2]
    answer(run, *({"step": i, "prompt": f"p{i % 3}", "text": "t", "reward": reward} for i, reward in enumerate(rewards)))
    (found,) = _get(client(), "/api/worst", r="r")["runs"]
    assert [a["step"] for a in found["answers"]] == [5, 3, 1, 6, 2, 7, 0, 4]  # the latest of equal ones first


def test_search_finds_runs_settings_metrics_and_samples(root: Path, client: Client) -> None:
    run = make_run(root / "first", steps(1, entropy=1.0), lr=0.25)
    answer(run, {"step": 1, "prompt": "Say Rain", "text": "das REGNET 下雨", "reward": 1.0})
    found = _get(client(), "/api/search", q="FIRST")
    assert [row["run"] for row in found["runs"]] == ["first"]
    assert _get(client(), "/api/search", q="lr 0.25")["settings"][0]["text"] == "lr=0.25"
    assert _get(client(), "/api/search", q="entrop")["metrics"] == [{"run": "first", "metric": "entropy"}]
    assert _get(client(), "/api/search", q="regnet rain")["samples"][0]["step"] == 1
    assert len(_get(client(), "/api/search", q="下雨")["samples"]) == 1
    empty = _get(client(), "/api/search", q="regnet nowhere")
    assert not any(empty[kind] for kind in ("runs", "settings", "metrics", "samples"))


def test_answers_by_token(root: Path, client: Client) -> None:
    run = make_run(root / "r", steps(1))
    row = KeptRollout(
        4, "worst", "p", 0, "Q", "ab", (7, 8), ("a", "b"), 3, (True, True),
        {"policy": (-1.0, -2.0), "reference": (-1.5, float("-inf"))}, {"advantages": (0.5, -0.5)}, -2.0, {"len": 1.0},
    )  # fmt: skip
    Rollouts(run, 1, 1 << 20).write("train", 4, [row])
    found = _get(client(), "/api/tokens", r="r")
    assert found["files"] == [{"id": "train-000000004.jsonl", "kind": "train", "step": 4, "undone": 0}]
    (one,) = found["answers"]
    assert one["values"]["kl"] == [0.5, "Infinity"]
    assert one["values"]["advantages"] == [0.5, -0.5]
    assert (one["pieces"], one["reward"], one["why"]) == (["a", "b"], -2.0, "worst")
    (run / "rollouts" / "train-000000004.jsonl").write_text('{"nothing": 1}\n')
    assert _get(client(), "/api/tokens", r="r", file="train-000000004.jsonl")["answers"] == []


def test_checkpoints_and_lineage(root: Path, client: Client) -> None:
    run = make_run(root / "base", steps(1))
    for step in (2, 10):
        (run / "checkpoints" / str(step)).mkdir(parents=True)
        (run / "checkpoints" / str(step) / "policy.safetensors").write_bytes(b"x" * step)
    (run / "checkpoints" / "10" / "complete.json").write_text("{}")
    (run / "checkpoints" / "best").write_text('{"schema": 1, "step": 10}')
    child = make_run(root / "child", steps(1))
    manifest = json.loads((child / "manifest.json").read_text())
    (child / "manifest.json").write_text(json.dumps({**manifest, "parent": f"{run.resolve()} 2026-01-02T03:04:05+00:00"}))
    other = make_run(root / "other child", steps(1))
    relative = {**manifest, "parent": "base", "starts": [{"at": "2026-01-02T03:04:05+00:00", "folder": str(root)}]}
    (other / "manifest.json").write_text(json.dumps(relative))
    grandchild = {**relative, "parent": "other child"}
    (make_run(root / "last", steps(1)) / "manifest.json").write_text(json.dumps(grandchild))
    found = _get(client(), "/api/about", r="base")
    assert [(c["step"], c["bytes"], c["marks"], c["whole"]) for c in found["checkpoints"]] == [(2, 2, [], False), (10, 12, ["best"], True)]
    assert sorted(found["children"]) == ["child", "other child"], "also of runs that were started elsewhere"
    assert _get(client(), "/api/about", r="child")["parent_id"] == _get(client(), "/api/about", r="other child")["parent_id"] == "base"
    assert _get(client(), "/api/about", r="last")["parent_id"] == "other child", "a name with a space"


def test_only_so_much_is_held_in_memory(root: Path, monkeypatch: Any) -> None:
    for name in "abc":
        make_run(root / name, steps(20_000, x=1.0, y=2.0, z=3.0))
    monkeypatch.setattr("keel.dash.folder.HELD", 1 << 20)
    folder = Folder(root)
    for name in "abcab":
        run = folder.get(name)
        assert run is not None
        while run.read()[1] < 1:
            pass
    held = [run.metrics.nbytes for run in folder.runs()]
    assert sum(size > 1 << 19 for size in held) <= 2


def test_many_long_runs_come_as_previews_and_are_read_in_the_background(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("keel.dash.folder.MANY", 1)
    monkeypatch.setattr("keel.dash.folder.SMALL", 1000)
    for name in "ab":
        make_run(root / name, steps(3000))
    folder = Folder(root)
    runs = [run for name in "ab" if (run := folder.get(name)) is not None]
    shown = views.overview(runs)
    assert all(row["read"] < 1 for row in shown["runs"])
    assert shown["high"] == 3000
    assert list(folder.unread()) == runs
    for run in runs:
        while not run.read_on():
            pass
        run.preview = None
    assert list(folder.unread()) == []
    assert all(row["read"] == 1 for row in views.overview(runs)["runs"])
    assert len(runs[0].metrics) == 3000


def test_checklists_say_what_the_program_found_and_what_is_open(root: Path, client: Client) -> None:
    """The same as `keel check`, of a run and of a pipeline; where nothing was trained there are none."""
    from keel.evaluate.checklists.facts import facts_of
    from keel.evaluate.checklists.lists import check_items
    from keel.evaluate.report_data import collect

    run = make_run(root / "r", steps(40, grad_norm=lambda i: 50.0 if i == 7 else 1.0), optim={"lr": 1.0})
    answer(run, {"step": 1, "prompt": "p", "text": "t", "reward": 1.0})
    make_run(root / "pipe" / "stages" / "rl", steps(12))
    (root / "pipe" / "manifest.json").write_text(json.dumps({"verb": "run"}))
    (root / "other").mkdir()
    (root / "other" / "manifest.json").write_text(json.dumps({"verb": "evaluate"}))
    found = _get(client(), "/api/checks", r="r")
    assert [part["when"] for part in found["lists"]] == ["before", "during", "after"]
    items = {item["name"]: item for part in found["lists"] for item in part["items"]}
    facts = facts_of(collect(run))
    assert facts is not None
    assert {name: (item["state"], item["why"]) for name, item in items.items()} == {
        c.item.name: (c.status, c.evidence) for c in check_items(facts)
    }
    assert (items["gradient-steady"]["state"], items["learning-rate"]["state"]) == ("fail", "fail")
    assert "50" in items["gradient-steady"]["why"]
    assert items["people-judge"]["state"] == "for a person"
    assert all(item["text"]["en"] and item["text"]["zh"] for item in items.values())
    for part in found["lists"]:
        assert [item["state"] for item in part["items"]] == [state for state, n in part["counts"] for _ in range(n)], "failed ones first"
    assert len(_get(client(), "/api/checks", r="pipe")["lists"]) == 3
    assert _get(client(), "/api/checks", r="other") == {"run": "other", "lists": [], "why": ""}
