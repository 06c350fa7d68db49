"""Who may work in which campaign, how they joined, how far they are, and the code that they get at the end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select

from keel.core.errors import ConfigError, DataError
from keel.feedback import people, schema
from keel.feedback.campaigns import Campaign, ConflictError, get_campaign
from keel.feedback.campaigns import campaigns as all_campaigns
from keel.feedback.db import Account, NoLeaseError, Store
from keel.feedback.members import is_retracted, member_state
from keel.feedback.sql import run
from keel.web.protocol import page_of

PLATFORMS: Mapping[str, str] = {"PROLIFIC_PID": "prolific", "workerId": "mturk"}  # who is who, by the link's parameter
_KNOWN = ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID", "workerId", "assignmentId", "hitId")
_WORKER = re.compile(r"[A-Za-z0-9_-]{4,64}")


def platform_name(given: Mapping[str, str]) -> str:
    """The account's name of a person whom a platform sent: ``prolific:ID`` or ``mturk:ID``. Raises DataError."""
    wrong = [k for k, v in given.items() if k not in _KNOWN or not re.fullmatch(r"[\w.:-]{0,100}", v)]
    if wrong:
        raise DataError(f"the link's parameter {wrong[0]!r} is unknown or has an impossible value", f"known: {', '.join(_KNOWN)}")
    found = [(platform, given[key]) for key, platform in PLATFORMS.items() if given.get(key)]
    if len(found) != 1 or not _WORKER.fullmatch(found[0][1]):
        raise DataError("the link does not say who you are", "open it from the platform that sent you")
    return ":".join(found[0])


def check_free_name(name: str) -> None:
    """Raises ConfigError for a name that belongs to people of a platform, or that holds characters nobody sees."""
    if name.partition(":")[0].lower() in PLATFORMS.values() and ":" in name:
        raise ConfigError("a user name cannot begin like that", "choose another")
    if not name.isprintable():
        raise ConfigError("the user name holds characters that cannot be seen", "choose another")


def look_up(c: Connection, token: str, now: float) -> tuple[str, str, bool]:
    """(role, campaign, may somebody new join) of an invitation. Raises DataError when it is unknown or over."""
    i = schema.invitation
    row = c.execute(select(i).where(i.c.digest == people.token_digest(token))).one_or_none()
    if row is None or row.until <= now:
        raise DataError("this invitation is unknown or over", "ask for a new one")
    return row.role, row.campaign, row.uses_left > 0


def join(store: Store, token: str, name: str, password: str) -> Account:
    """Make an account by invitation, a member of its campaign. The invitation is used only when all of it was stored."""
    check_free_name(name)
    people.check_account(name, password, "annotator")
    salt = people.new_salt()
    hashed = people.password_hash(password, salt)

    def job(c: Connection) -> Account:
        role, campaign = people.use_invitation(c, token, store.clock())
        account = people.add_account(c, name, salt, hashed, role, store.clock())
        _enter(c, account, campaign)
        return account

    return store.write(job).result()


def join_from_platform(store: Store, token: str, given: Mapping[str, str]) -> Account:
    """The account of a person whom a platform sent, made at the first visit; it has no password and opens by such a link alone."""
    name = platform_name(given)

    def job(c: Connection) -> Account:
        role, campaign, _ = look_up(c, token, store.clock())
        if role != "annotator":
            raise DataError("this invitation is not for people of a platform", "ask for a new one")
        row = c.execute(select(schema.account).where(schema.account.c.name == name)).one_or_none()
        if row is None:
            people.use_invitation(c, token, store.clock())
            account = people.add_account(c, name, people.new_salt(), "", "annotator", store.clock())
        elif row.password or row.disabled or row.role != "annotator":
            raise DataError("this account is closed", "write to the people of the study")
        else:
            account = Account(row.name, row.annotator, row.role)
        _enter(c, account, campaign)
        people.note(c, name, "arrived", {k: v for k, v in given.items() if v}, store.clock())
        return account

    return store.write(job).result()


def join_as(store: Store, token: str, account: Account) -> None:
    """Somebody who has an account takes part in the invitation's campaign too."""

    def job(c: Connection) -> None:
        role, campaign, _ = look_up(c, token, store.clock())
        if role != account.role:
            raise ConflictError("this invitation is for another kind of account", "sign out and make one")
        people.use_invitation(c, token, store.clock())
        _enter(c, account, campaign)

    store.write(job).result()


def open_session(store: Store, account: Account, seconds: float) -> str:
    """A token for the cookie of somebody who has just joined."""
    token = people.new_token()
    store.write(lambda c: people.open_session(c, account.name, token, store.clock(), seconds)).result()
    return token


_m = schema.member
_MINE = select(_m.c.campaign).where(_m.c.annotator == bindparam("annotator")).order_by(_m.c.campaign)
_IN = select(_m.c.state).where(_m.c.annotator == bindparam("annotator"), _m.c.campaign == bindparam("campaign"))


def member_campaigns(store: Store, account: Account) -> tuple[str, ...]:
    """The campaigns that a person may work in; all of them for managers and adjudicators."""
    if account.role != "annotator":
        return tuple(c.name for c in store.campaigns())
    return store.read(lambda c: tuple(row.campaign for row in run(c, _MINE, annotator=account.annotator)))


def check_member(c: Connection, account: Account, campaign: str) -> None:
    """Raises NoLeaseError for a campaign that the person was not invited to. Managers and adjudicators need no invitation."""
    if account.role == "annotator" and run(c, _IN, annotator=account.annotator, campaign=campaign).first() is None:
        raise NoLeaseError("you were not invited to this campaign", "ask for an invitation")


def state_of(store: Store, annotator: str, campaign: str) -> str:
    """training, qualification, passed or failed, as it was last time; empty before the first time."""
    m = schema.member
    mine = select(m.c.state).where(m.c.campaign == campaign, m.c.annotator == annotator)
    return store.read(lambda c: c.execute(mine).scalar()) or ""


def has_earned(c: Connection, annotator: str, campaign: str) -> bool:
    """Does an answer of theirs stand in this campaign? Answers to training items do not count, nor do those of who was taken back."""
    h, t = schema.head, schema.task
    mine = (h.c.annotator == annotator, t.c.campaign == campaign, h.c.purpose != "training", h.c.retracted == 0)
    stands = select(h.c.event_id).join(t, t.c.task_id == h.c.task).where(*mine).limit(1)
    return c.execute(stands).first() is not None and not is_retracted(c, annotator)


def completion(store: Store, campaign: Campaign, annotator: str, state: str, earned: bool) -> dict[str, Any]:
    """What a person gets when nothing is left for them: ``done``, with a code for the platform if they ``earned`` it, or ``failed``."""
    if state != "passed" or not earned:
        return {"why": "done" if state == "passed" else state, "code": "", "url": ""}
    page = page_of(campaign)
    code = page.completion_code or own_code(store, campaign.name, annotator)
    return {"why": "done", "code": code, "url": page.completion_url}


def own_code(store: Store, campaign: str, annotator: str) -> str:
    """A code that only this person gets, the same whenever they ask; the manager's page shows it beside the name."""
    s = schema.setting
    secret = store.read(lambda c: c.execute(select(s.c.value).where(s.c.name == "secret")).scalar_one())
    said = f"completion\0{campaign}\0{annotator}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, key=bytes.fromhex(secret), digest_size=5).hexdigest().upper()


def _enter(c: Connection, account: Account, campaign: str) -> None:
    if account.role == "annotator":
        for name in [get_campaign(c, campaign).name] if campaign else [x.name for x in all_campaigns(c)]:
            member_state(c, account.annotator, name)
