"""Which rows an adapter learns from, and in which order."""

from __future__ import annotations

import random

from keel.loops.personal import folder_of
from keel.loops.rounds import Round, Share, next_round, of_json, to_json, turns


def plan(rows: dict[str, list[str]], before: list[Round], replay: float = 0.0) -> Round:
    return next_round(rows, before, replay, 7, lambda n: -(-n // 2))


def test_owners_take_turns_until_their_steps_are_done() -> None:
    first = plan({"b": ["1", "2", "3"], "a": ["1"]}, [])
    assert first == (Share("a", 0, ("1",), (), 1), Share("b", 0, ("1", "2", "3"), (), 2))
    assert [(share.owner, k) for share, k in turns(first)] == [("a", 0), ("b", 0), ("b", 1)]


def test_only_who_has_new_rows_learns_and_some_earlier_ones_come_along() -> None:
    first = plan({"a": ["1", "2"], "b": ["1"]}, [])
    rows = {"a": ["1", "2"], "b": ["1", "2"]}
    second = plan(rows, [first], replay=1.0)
    assert second == (Share("b", 1, ("2",), ("1",), 1),)
    assert plan(rows, [first, second]) == ()


def test_rows_that_are_gone_are_not_learnt_again() -> None:
    first = plan({"a": ["1", "2", "3"]}, [])
    (share,) = plan({"a": ["3", "4", "5", "6"]}, [first], replay=5.0)
    assert (share.new, share.again) == (("4", "5", "6"), ("3",))


def test_an_owners_share_does_not_hang_on_others() -> None:
    draw = random.Random(3)
    for _ in range(50):
        mine, before_alone, before_beside = [], list[Round](), list[Round]()
        for k in range(draw.randint(1, 4)):
            mine += [f"{k}-{i}" for i in range(draw.randint(0, 5))]
            others = {f"o{i}": [f"{j}" for j in range(draw.randint(0, 4))] for i in range(3)}
            alone, beside = plan({"me": mine}, before_alone, 0.7), plan({**others, "me": mine}, before_beside, 0.7)
            assert list(alone) == [share for share in beside if share.owner == "me"]
            before_alone, before_beside = [*before_alone, alone], [*before_beside, beside]
            assert of_json(to_json(before_beside)) == before_beside


def test_names_become_folders_that_stay_below() -> None:
    names = ["ann", "a/b", "..", ".", "x@y.org", "山", "a%2Fb", "-x"]
    folders = [folder_of(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all("/" not in folder and not folder.startswith(".") for folder in folders)
    assert folder_of("x@y.org") == "x@y.org"
