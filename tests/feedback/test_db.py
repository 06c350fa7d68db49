"""The store: what is acknowledged is stored, once, by whomever and however often it is sent."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import select, text

from keel.core.errors import ConfigError, DataError
from keel.feedback import asked, migrate, schema, sql
from keel.feedback.campaign_settings import CampaignSettings, settings_from
from keel.feedback.campaigns import Campaign, ConflictError
from keel.feedback.db import NoLeaseError, RowError, Store
from keel.feedback.steps import STEPS
from keel.feedback.writer import ClosedError
from keel.types import Annotator, Candidate, Choice, Judgement, Message, Prompt, Task


def make_task(name: str, campaign: str = "c", expected: Choice | None = None) -> Task:
    prompt = Prompt(f"p{name}", (Message("user", f"Question {name}?"),), source_id="secret.jsonl:7", meta={"truth": "secret"})
    pair = (Candidate("secret-a", f"one {name}", {"model": "secret"}), Candidate("secret-b", f"two {name}", {"model": "secret"}))
    return Task(f"t{name}", prompt, pair, "pairwise", "pairwise-v1", campaign=campaign, expected=expected, meta={"from": "secret"})


CAMPAIGN = Campaign("c", 2, "pairwise", "pairwise-v1", lease_seconds=60.0)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/f.db", clock) as made:
        made.add_campaign(CAMPAIGN)
        for name in "abc":
            made.add_annotator(Annotator(name, "person"))
        yield made


def judgement(task: str, by: str, event: str, chosen: str = "first", **more: object) -> Judgement:
    base = Judgement(event, task, by, "work", Choice(chosen), (0, 1), "pairwise-v1", "2026-11-29T12:00:00Z")  # type: ignore[arg-type]
    return replace(base, **more)  # type: ignore[arg-type]


def test_the_store_is_imported_without_torch_and_pydantic() -> None:
    code = "import sys, keel.feedback.db; print([m for m in ('torch', 'pydantic', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_connection_syncs_fully(store: Store) -> None:
    """FULL is 2. A commit at NORMAL may be lost with the power."""
    wanted = {"synchronous": 2, "journal_mode": "wal", "foreign_keys": 1, "busy_timeout": sql.BUSY_MS}

    def pragmas(c: sqlalchemy.Connection) -> dict[str, object]:
        return {name: c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}

    assert store.write(pragmas).result() == wanted
    assert store.read(pragmas) == wanted


def test_urls_that_cannot_be_used() -> None:
    for bad in ("mysql://x/y", "sqlite://", "sqlite:///:memory:", "http://[", ""):
        with pytest.raises(ConfigError):
            sql.make_url(bad)
    assert sql.make_url("postgresql://u@h/n").drivername == "postgresql+psycopg"
    assert sql.make_url("some/file.db").database == "some/file.db"


def test_a_task_is_read_back_equal_and_its_texts_stand_once(store: Store) -> None:
    tasks = [make_task("1"), make_task("2"), replace(make_task("1"), task_id="")]
    ids = store.add_tasks("c", tasks)
    assert store.tasks(ids[:2]) == tasks[:2]
    assert store.task(ids[2]) == replace(tasks[2], task_id=ids[2])
    assert len(ids[2]) == 32
    assert store.read(lambda c: len(c.execute(select(schema.prompt)).all())) == 2
    assert store.read(lambda c: len(c.execute(select(schema.candidate)).all())) == 4
    assert store.add_tasks("c", tasks) == ids
    with pytest.raises(ConflictError, match="t1 is there with other content"):
        store.add_tasks("c", [replace(make_task("1"), meta={"x": 1})])
    with pytest.raises(ConflictError, match="t1 is there"):
        store.add_tasks("c", [replace(make_task("1"), expected=Choice("tie"))], role="gold")
    with pytest.raises(DataError, match="needs its expected answer"):
        store.add_tasks("c", [make_task("9")], role="gold")
    with pytest.raises(DataError, match="protocols are not mixed"):
        store.add_tasks("c", [replace(make_task("9"), protocol="other")])
    with pytest.raises(DataError, match="'t9' is not in the store"):
        store.task("t9")


def test_an_event_sent_twice_is_stored_once_and_answered_alike(store: Store, clock: Clock) -> None:
    store.add_tasks("c", [make_task("1")])
    (item,) = store.next_items("a", "c")
    one = store.answer("a", item.handle, "e1", Choice("first", 0.5), reason="better")
    clock.now += 1000.0  # also after its lease, and with another time
    assert store.answer("a", item.handle, "e1", Choice("first", 0.5), reason="better") == one
    assert len(store.judgements("c")) == 1
    for other in ({"reason": "worse"}, {"reason": "better", "active_ms": 3}):
        with pytest.raises(ConflictError, match="e1 is stored with other content"):
            store.answer("a", item.handle, "e1", Choice("first", 0.5), **other)
    with pytest.raises(ConflictError, match="other content"):
        store.answer("a", item.handle, "e1", Choice("second", 0.5), reason="better")
    assert len(store.judgements("c")) == 1
    assert store.progress("c")["votes"] == 1


def test_two_sends_at_once_are_one_row(store: Store) -> None:
    store.add_tasks("c", [make_task("1")])
    (item,) = store.next_items("a", "c")
    futures = [store.answer_soon("a", item.handle, "e1", Choice("tie")) for _ in range(20)]
    assert len({f.result() for f in futures}) == 1
    assert [j.event_id for j in store.judgements("c")] == ["e1"]


def test_a_correction_is_a_new_event_that_names_the_standing_one(store: Store) -> None:
    store.add_tasks("c", [make_task("1")])
    (item,) = store.next_items("a", "c")
    store.answer("a", item.handle, "e1", Choice("tie"))
    with pytest.raises(ConflictError, match="a has event e1"):
        store.answer("a", item.handle, "e2", Choice("first"))
    store.answer("a", item.handle, "e2", Choice("first"), replaces="e1")
    with pytest.raises(ConflictError, match="a has event e2"):
        store.answer("a", item.handle, "e3", Choice("first"), replaces="e1")
    assert [j.event_id for j in store.judgements("c")] == ["e1", "e2"]
    assert store.progress("c")["votes"] == 1
    assert store.read(lambda c: c.execute(select(schema.head.c.event_id, schema.head.c.counted)).all()) == [("e2", 1)]
    (other,) = store.next_items("b", "c")
    with pytest.raises(ConflictError, match="nothing of theirs"):
        store.answer("b", other.handle, "e4", Choice("first"), replaces="e2")


@pytest.mark.parametrize("table", ["judgement", "retraction", "audit", "snapshot"])
@pytest.mark.parametrize("what", ["UPDATE {} SET {}=1", "DELETE FROM {}"])
def test_the_database_refuses_to_change_what_is_append_only(store: Store, table: str, what: str) -> None:
    store.add_tasks("c", [make_task("1")])
    (item,) = store.next_items("a", "c")
    store.answer("a", item.handle, "e1", Choice("tie"))
    store.retract(event_id="e1", why="a test")
    store.note("a", "voted")
    store.write(lambda c: c.execute(schema.snapshot.insert(), {"id": "s", "rows": "[]", "query": "{}", "count": 0, "at": 0.0})).result()
    column = "count" if table == "snapshot" else "seq"
    with pytest.raises(sqlalchemy.exc.DBAPIError, match=f"rows of {table} are never changed"):
        store.write(lambda c: c.execute(text(what.format(table, column)))).result()
    assert store.read(lambda c: c.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()) == 1


def test_a_job_that_fails_fails_alone(store: Store) -> None:
    """All jobs wait behind one that holds the writer, so they share a transaction."""
    gate = threading.Event()
    first = store.write(lambda c: gate.wait(60))

    def half(c: sqlalchemy.Connection) -> None:
        c.execute(schema.setting.insert(), {"name": "half", "value": "1"})
        raise ValueError("broken on purpose")

    def put(name: str) -> object:
        return store.write(lambda c: c.execute(schema.setting.insert(), {"name": name, "value": "1"}).rowcount)

    good, bad, twice, last = put("x"), store.write(half), put("x"), put("y")
    before = store.writer.transactions
    gate.set()
    first.result()
    assert good.result() == last.result() == 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="on purpose"):
        bad.result()
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        twice.result()  # type: ignore[attr-defined]
    names = store.read(lambda c: set(c.execute(select(schema.setting.c.name)).scalars()))
    assert names == {"secret", "x", "y"}
    assert store.writer.transactions <= before + 2, "five jobs were not committed together"


def test_nothing_is_acknowledged_before_its_commit(store: Store) -> None:
    """A commit that fails is the failure of all jobs in it, and the writer goes on."""
    fail = [True]

    def refuse(connection: sqlalchemy.Connection) -> None:
        if fail.pop() if fail else False:
            raise OSError("no space left")

    sqlalchemy.event.listen(store._writes, "commit", refuse)
    with pytest.raises(OSError, match="no space"):
        store.note("a", "lost")
    store.note("a", "kept")
    assert [n["what"] for n in store.audit()] == ["kept"]


def test_close_writes_what_waits_and_refuses_more(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/f.db")
    gate = threading.Event()
    store.write(lambda c: gate.wait(60))
    futures = [store.write(lambda c, i=i: c.execute(schema.setting.insert(), {"name": f"n{i}", "value": ""}).rowcount) for i in range(5)]
    gate.set()
    store.close()
    store.close()
    assert [f.result() for f in futures] == [1] * 5
    with pytest.raises(ClosedError):
        store.note("a", "late")
    with Store(f"sqlite:///{tmp_path}/f.db") as again:
        assert again.read(lambda c: len(c.execute(select(schema.setting)).all())) == 6


@pytest.mark.parametrize("old", range(len(STEPS)))
def test_every_old_schema_opens_with_its_data(tmp_path: Path, old: int) -> None:
    url = sql.make_url(f"sqlite:///{tmp_path}/f.db")
    engine = sql.engine(url, writes=True)
    with engine.begin() as c:
        migrate.migrate(c, upto=old)
        if old:
            c.execute(schema.annotator.insert(), {"annotator_id": "x", "kind": "judge", "identity": "i", "meta": "{}", "at": 1.0})
            assert migrate.version(c) == old
    engine.dispose()
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        assert store.read(migrate.version) == migrate.VERSION
        assert store.annotators() == ((Annotator("x", "judge", "i"),) if old else ())


def tables(c: sqlalchemy.Connection) -> dict[str, object]:
    look = sqlalchemy.inspect(c)
    return {
        name: (
            [(col["name"], str(col["type"]).split()[0].replace("DOUBLE", "REAL"), col["nullable"]) for col in look.get_columns(name)],
            look.get_pk_constraint(name)["constrained_columns"],
            sorted((i["name"], tuple(i["column_names"]), bool(i["unique"])) for i in look.get_indexes(name)),
            sorted((tuple(f["constrained_columns"]), f["referred_table"]) for f in look.get_foreign_keys(name)),
        )
        for name in look.get_table_names()
        if name != "keel_schema"
    }


def test_the_steps_lead_to_the_tables_that_the_code_knows(tmp_path: Path, store: Store) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/plain.db")
    schema.METADATA.create_all(engine)
    with engine.connect() as c:
        assert store.read(tables) == tables(c)


def test_a_newer_store_and_a_foreign_database_are_refused(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        store.write(lambda c: c.exec_driver_sql("INSERT INTO keel_schema VALUES (99)")).result()
    with pytest.raises(ConfigError, match="schema 99"):
        Store(f"sqlite:///{tmp_path}/f.db")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/other.db")
    with engine.begin() as c:
        c.exec_driver_sql("CREATE TABLE songs (x INTEGER)")
    with pytest.raises(ConfigError, match="other tables"):
        Store(f"sqlite:///{tmp_path}/other.db")


def test_nothing_that_tells_goes_to_the_page(store: Store) -> None:
    store.add_tasks("c", [make_task("1", expected=Choice("first"))], role="training")
    (item,) = store.next_items("a", "c")
    for shown in (repr(item.task), repr(item.public())):
        assert "secret" not in shown
        assert "t1" not in shown
    assert item.task.expected is None
    assert [a["text"] for a in item.public()["answers"]] == [("one 1", "two 1")[i] for i in item.display_order]


def test_records_of_judges_need_no_lease(store: Store) -> None:
    store.add_tasks("c", [make_task("1"), make_task("2")])
    said = [judgement("t1", "a", "e1"), judgement("t1", "b", "e2"), judgement("t2", "a", "e3")]
    assert store.record(said) == 3
    assert store.record([*said, judgement("t2", "b", "e4")]) == 1
    assert store.progress("c") == {"items": 2, "done": 2, "open": 0, "votes": 4, "leases": 0, "disputed": 0, "by_judge": 0, "missing": 0}
    assert store.judgements("c")[:3] == tuple(said)
    with pytest.raises(NoLeaseError, match="c was not given task t1"):
        store.submit(judgement("t1", "c", "e5"))
    with pytest.raises(ConflictError):
        store.record([judgement("t1", "c", "e6"), judgement("t2", "a", "e3", "second")])
    assert "e6" not in [j.event_id for j in store.judgements("c")], "a part is stored whole or not at all"
    with pytest.raises(RowError, match="display_order must be a permutation"):
        store.record([judgement("t1", "c", "e7", display_order=(0, 0))])


def test_campaigns_keep_what_defines_their_votes(store: Store) -> None:
    store.add_campaign(CAMPAIGN)
    with pytest.raises(ConflictError):
        store.add_campaign(replace(CAMPAIGN, wanted=3))
    changed = store.update_campaign("c", paused=True, settings=CampaignSettings(pass_mark=0.5, page={"x": [1]}))
    assert store.campaign("c") == changed
    assert store.campaigns() == (changed,)
    for bad in ({"wanted": 3}, {"gold_share": 0.95}, {"settings": CampaignSettings(scale=0.0)}, {"lease_seconds": 0.0}):
        with pytest.raises(ConfigError):
            store.update_campaign("c", **bad)
    with pytest.raises(ConfigError, match="colour is unknown"):
        settings_from({"colour": 1})
    with pytest.raises(DataError, match="'none' is not in the store"):
        store.campaign("none")


def test_guidelines_annotators_and_media(store: Store) -> None:
    store.add_guideline("g1", "Be fair.", {"accuracy": 2.0})
    assert store.guideline("g1") == ("Be fair.", {"accuracy": 2.0})
    with pytest.raises(ConflictError):
        store.add_guideline("g1", "Be unfair.", {"accuracy": 2.0})
    with pytest.raises(ConflictError):
        store.add_annotator(Annotator("a", "judge"))
    store.add_media("d", "x.png", "image/png")
    assert store.media("d") == ("x.png", "image/png")
    assert store.media("e") is None


def test_sessions_open_end_and_are_revoked(store: Store, clock: Clock) -> None:
    store.add_account("ann", "correct horse", "manager")
    assert store.sign_in("ann", "wrong horse") is None
    assert store.sign_in("nobody", "correct horse") is None
    one, two = store.sign_in("ann", "correct horse", 100.0), store.sign_in("ann", "correct horse", 1000.0)
    assert one
    assert two
    assert store.account_of(one) == store.account("ann")
    assert store.account_of("made up") is None
    kept = store.read(lambda c: repr(c.execute(select(schema.session)).all()) + repr(c.execute(select(schema.account)).all()))
    assert one not in kept
    assert "correct horse" not in kept
    clock.now += 100.0
    assert store.account_of(one) is None
    assert store.account_of(two) is not None
    store.sign_out(two)
    assert store.account_of(two) is None
    three = store.sign_in("ann", "correct horse")
    assert three
    store.change_account("ann", password="another horse")
    assert store.account_of(three) is None
    assert store.sign_in("ann", "correct horse") is None
    four = store.sign_in("ann", "another horse")
    assert four
    store.change_account("ann", disabled=True)
    assert store.account_of(four) is None
    assert store.sign_in("ann", "another horse") is None
    with pytest.raises(ConflictError, match="taken"):
        store.add_account("ann", "correct horse")


def test_an_invitation_is_used_as_often_as_it_says(store: Store, clock: Clock) -> None:
    token = store.invite("annotator", "c", 2, 60.0, "boss")
    account, campaign = store.accept(token, "dora", "password 1")
    assert (account.role, account.annotator, campaign) == ("annotator", "dora", "c")
    with pytest.raises(ConflictError):
        store.accept(token, "dora", "password 1")  # a failure uses nothing up
    store.accept(token, "emil", "password 1")
    with pytest.raises(DataError, match="used up"):
        store.accept(token, "fred", "password 1")
    late = store.invite("annotator", "c", 2, 60.0, "boss")
    clock.now += 60.0
    with pytest.raises(DataError, match="over"):
        store.accept(late, "fred", "password 1")
    assert [a.name for a in store.accounts()] == ["dora", "emil"]
    for bad in (("", "password 1"), ("x", "short"), (" x", "password 1")):
        with pytest.raises(ConfigError):
            store.add_account(*bad)


def test_other_processes_write_between_the_parts_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vote waits for one part, never for the whole import."""
    url, seen = f"sqlite:///{tmp_path}/f.db", list[int]()
    with Store(url) as store, Store(url) as other:
        store.add_campaign(Campaign("c", 1, "pairwise", "v1"))

        def look(held: float) -> None:
            assert held > 0
            other.add_annotator(Annotator(f"a{len(seen)}", "person"))
            seen.append(other.progress("c")["items"])

        monkeypatch.setattr(asked, "_give_way", look)
        pair = (Candidate("a", "one"), Candidate("b", "two"))
        store.add_tasks("c", [Task(f"t{i}", Prompt(f"p{i}", text="?"), pair, "pairwise", "v1") for i in range(2 * asked.PART + 1)])
        assert seen == [asked.PART, 2 * asked.PART]
        assert store.progress("c")["items"] == 2 * asked.PART + 1
