"""The store of answers: what was kept comes back, the folder stays small, and which steps are there hangs on the run alone."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from keel.core.errors import RunError
from keel.runs import rollouts
from keel.runs.record import Record
from keel.runs.rollouts import KeptRollout, Rollouts, cut, files, give_up, read


def answer(step: int, why: str = "best", prompt: str = "p", text: str = "ok") -> KeptRollout:
    return KeptRollout(
        step, why, prompt, 0, "Say ok.", text, [5, 6], ["o", "k"], 3, [True, True], {"sampler": [-1.0, -2.0], "reference": [-1.5, -4.0]}
    )


def listing(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / rollouts.FOLDER).iterdir()}


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    store = Rollouts(tmp_path, 10, 10**6)
    odd = replace(answer(10), logprobs={"policy": [math.nan, -math.inf], "reference": [0.0, -1 / 3]}, reward=None, error="it failed 长")
    store.write("train", 10, [answer(10), replace(odd, why="worst")])
    (file,) = files(tmp_path)
    assert (file.kind, file.step, file.undone) == ("train", 10, 0)
    best, worst = read(file)
    assert best == answer(10)
    assert best.kl == [0.5, 2.0]
    assert (worst.error, worst.reward, worst.logprobs["reference"][1]) == ("it failed 长", None, -0.333333)
    assert math.isnan(worst.logprobs["policy"][0])
    assert worst.logprobs["policy"][1] == -math.inf
    assert replace(worst, logprobs={}).kl is None


def test_a_step_that_is_done_again_stands_once(tmp_path: Path) -> None:
    store = Rollouts(tmp_path, 1, 10**6)
    store.write("eval", 4, [answer(4, "fixed"), answer(4, "best")])
    store.write("eval", 4, [answer(4, "fixed", text="again"), answer(4, "fixed", prompt="q")])
    (file,) = files(tmp_path)
    stands = [("best", "p", "ok"), ("fixed", "p", "again"), ("fixed", "q", "ok")]
    assert [(row.why, row.prompt_id, row.text) for row in read(file)] == stands


def test_nothing_is_kept_where_nothing_shall_be(tmp_path: Path) -> None:
    store = Rollouts(tmp_path, 0, 10**6)
    store.write("alarm", 1, [answer(1)])
    assert not store.due(10)
    assert files(tmp_path) == []


def test_going_back(tmp_path: Path) -> None:
    """Cut: the steps come again. Given up: the last of them and all alarms stay, with the number."""
    store = Rollouts(tmp_path, 1, 10**6)
    for step in range(1, 11):
        store.write("train", step, [answer(step)])
    store.write("alarm", 3, [answer(3, "alarmed")])
    cut(tmp_path, 9)
    give_up(tmp_path, 2, 1)
    assert [(f.kind, f.step) for f in files(tmp_path) if not f.undone] == [("train", 1), ("train", 2)]
    assert [(f.kind, f.step) for f in files(tmp_path) if f.undone == 1] == [("alarm", 3), *(("train", s) for s in range(5, 10))]
    assert {row.undone for f in files(tmp_path)[2:] for row in read(f)} == {1}
    before = listing(tmp_path)
    give_up(tmp_path, 2, 1)
    cut(tmp_path, 2)
    assert listing(tmp_path) == before, "done again it leaves the same"


@pytest.mark.parametrize("seed", range(8))
def test_a_full_store_is_thinned_and_a_resumed_run_keeps_the_same(tmp_path: Path, seed: int) -> None:
    """Stopped at any steps and done again from any before: the folder is that of an undisturbed run, and below its size."""
    chance = random.Random(seed)
    text = "x" * chance.randrange(10, 400)

    def steps(run: Path, first: int, last: int) -> None:
        store = Rollouts(run, 2, 40_000)
        for step in range(first, last):
            if store.due(step):
                store.write("train", step, [answer(step, text=text)])
            if step % 7 == 0:
                store.write("eval", step, [answer(step, "fixed", text=text)])

    steps(tmp_path / "whole", 0, 300)
    at = 0
    while at < 300:
        stop = min(300, at + chance.randrange(1, 120))
        steps(tmp_path / "cut", at, stop)
        at = stop if stop == 300 else chance.randrange(at, stop + 1)
        cut(tmp_path / "cut", at - 1)
    assert listing(tmp_path / "cut") == listing(tmp_path / "whole")
    assert sum(map(len, listing(tmp_path / "whole").values())) < 21_000
    assert 0 in {file.step for file in files(tmp_path / "whole")}
    assert len(files(tmp_path / "whole")) > 10


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()


def test_alarms_have_room_of_their_own_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Rollouts(tmp_path, 1, 4_000)
    for step in range(1, 30):
        store.write("alarm", step, [answer(step, "alarmed")])
    kept = [f.step for f in files(tmp_path)]
    assert kept == list(range(1, len(kept) + 1)), "the first ones: trouble begins there"
    assert 3 < len(kept) < 12
    assert caplog.text.count("is full") == 1


def test_a_record_reads_a_run_and_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        Record(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "verb": "rl"}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kl": 0.5}\n')
    (tmp_path / "abandoned.jsonl").write_text('{"rollback": 1, "step": 2, "kl": 9.0}\n')
    (tmp_path / "events.jsonl").write_text('{"kind": "resumed", "step": 1}\n')
    store = Rollouts(tmp_path, 1, 10**6)
    for step in (2, 4):
        store.write("eval", step, [answer(step, "fixed"), answer(step, "fixed", prompt="q")])
    record = Record(tmp_path)
    assert (record.manifest["verb"], record.summary, record.last()) == ("rl", None, {"step": 1, "kl": 0.5})
    assert record.metrics().points("kl")[1].tolist() == [0.5]
    assert record.abandoned().points("kl")[1].tolist() == [9.0]
    assert [event["kind"] for event in record.events()] == ["resumed"]
    assert [row.step for row in record.over_time("q")] == [2, 4]
    assert record.rollouts(record.kept()[0])[0].text == "ok"
