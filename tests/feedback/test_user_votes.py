"""What users say of served answers, as judgements: what is stored, where, and what training reads of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keel.core.errors import UserError
from keel.feedback.campaigns import ConflictError
from keel.feedback.db import Store
from keel.feedback.views import of_store
from keel.serve.policy.frames import Row
from keel.serve.policy.memory import Said, Served
from keel.verbs.shared.user_votes import StoredVotes

ROW = Row("r", messages=({"role": "user", "content": "你好?"},), temperature=0.7)
SERVED = Served("chatcmpl-1", ROW, ("Hello ", "Hi"), ("stop", "length"), "canary", "runs/new", 0.0)
BOTH = {"store": True, "train": True, "version": "2026-11"}


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path / 's.db'}") as opened:
        yield opened


def test_an_edit_is_a_pair_and_a_thumb_a_rating(store: Store) -> None:
    votes = StoredVotes(store, "served")
    votes.keep(SERVED, Said("edit", 0, edit="Good morning.", by="user-7", consent=BOTH), "e1")
    votes.keep(SERVED, Said("thumb", 1, up=True, by="user-7", consent=BOTH), "e2")
    (pair,) = of_store(store, "served-edits").comparisons
    assert (pair.outcome, [c.text for c in pair.candidates], pair.prompt.last_user_text) == ("first", ["Good morning.", "Hello "], "你好?")
    assert pair.candidates[1].origin["model"] == "runs/new"
    (rating,) = of_store(store, "served-thumbs").ratings
    assert (rating.scores, rating.answer[0].text) == ({"thumb": 1.0}, "Hi")
    (judgement,) = store.judgements("served-edits")
    assert judgement.meta["consent"] == BOTH
    assert "user-7" not in judgement.by


def test_what_may_not_be_trained_on_is_in_a_campaign_of_its_own(store: Store) -> None:
    StoredVotes(store, "served").keep(SERVED, Said("thumb", 0, by="x", consent={"store": True}), "e")
    assert [c.name for c in store.campaigns()] == ["served-thumbs-look-only"]


def test_every_vote_counts_whoever_gave_it_and_however_often(store: Store) -> None:
    votes = StoredVotes(store, "served")
    for i, by in enumerate(("a", "a", "b", "")):
        votes.keep(SERVED, Said("thumb", 0, up=False, by=by, consent=BOTH), f"e{i}")
    view = of_store(store, "served-thumbs")
    assert (len(view.ratings), view.left_out) == (4, {})
    assert len({r.prompt.prompt_id for r in view.ratings}) == 1


def test_one_event_is_stored_once_and_its_id_never_stands_for_two(store: Store) -> None:
    down = Said("thumb", 0, up=False, by="a", consent=BOTH)
    with Store(str(store.url)) as again:  # after a restart, too
        assert [StoredVotes(s, "served").keep(SERVED, down, "e") for s in (store, store, again)] == ["e"] * 3
    assert len(store.judgements("served-thumbs")) == 1
    with pytest.raises(ConflictError, match="other content"):
        StoredVotes(store, "served").keep(SERVED, replace(down, up=True), "e")
    assert len(store.judgements("served-thumbs")) == 1


def test_an_edit_that_changes_nothing_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="as it was"):
        StoredVotes(store, "served").keep(SERVED, Said("edit", 0, edit="Hello ", consent=BOTH), "e")
    assert store.campaigns() == ()


def test_a_vote_between_two_models_keeps_their_order_and_the_screens(store: Store) -> None:
    StoredVotes(store, "chat").vote_on(ROW, ("a", "b"), ("same", "same"), "tie", (1, 0))
    (pair,) = of_store(store, "chat-votes").comparisons
    assert (pair.outcome, pair.display_order, [c.origin["model"] for c in pair.candidates]) == ("tie", (1, 0), ["a", "b"])
