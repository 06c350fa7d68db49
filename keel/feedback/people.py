"""Accounts, sessions, invitations and who did what. Passwords by scrypt, tokens by their hash alone: the database holds no secret.

Functions of a connection, and pure ones. The slow one, `password_hash` (0.1 s), is called before a job goes to the writer, never in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, func, insert, select, update

from keel.core.errors import ConfigError, DataError
from keel.feedback import schema
from keel.feedback.campaigns import ConflictError, add_annotator
from keel.feedback.rows import dumps
from keel.feedback.sql import run
from keel.types import Annotator

AccountRole = Literal["annotator", "manager", "adjudicator"]
ACCOUNT_ROLES = ("annotator", "manager", "adjudicator")
SHORTEST = 8  # characters of a password
_NOBODY = bytes(16)


@dataclass(frozen=True, slots=True)
class Account:
    """Who may sign in, and as which annotator."""

    name: str
    annotator: str
    role: AccountRole
    disabled: bool = False


def password_hash(password: str, salt: bytes) -> str:
    """scrypt with n = 2^15, r = 8, p = 1 (32 MiB, about 0.1 s)."""
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=32).hex()


def token_digest(token: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """256 random bits for a session or an invitation."""
    return secrets.token_urlsafe(32)


def new_salt() -> bytes:
    """16 random bytes."""
    return secrets.token_bytes(16)


def check_account(name: str, password: str, role: str) -> None:
    """Raises ConfigError saying what is wrong with a new account."""
    if not name.strip() or name != name.strip() or len(name) > 100:
        raise ConfigError("the user name must have 1 to 100 characters, no space around it")
    if len(password) < SHORTEST:
        raise ConfigError(f"the password must have at least {SHORTEST} characters")
    if role not in ACCOUNT_ROLES:
        raise ConfigError(f"role {role!r} is unknown", f"known: {', '.join(ACCOUNT_ROLES)}")


def add_account(c: Connection, name: str, salt: bytes, hashed: str, role: AccountRole, now: float) -> Account:
    """Make an account and its annotator ``name`` of kind person. Raises ConflictError when the name is taken."""
    if c.execute(select(schema.account.c.name).where(schema.account.c.name == name)).first() is not None:
        raise ConflictError(f"user name {name!r} is taken", "choose another")
    add_annotator(c, Annotator(name, "person"), now)
    row = {"name": name, "annotator": name, "role": role, "salt": salt.hex(), "password": hashed, "disabled": 0, "at": now}
    c.execute(insert(schema.account), row)
    return Account(name, name, role)


def secrets_of(c: Connection, name: str) -> tuple[bytes, str]:
    """Salt and hash of an account; of nobody's, when there is none: the same work is done for both."""
    a = schema.account
    row = c.execute(select(a).where(a.c.name == name, a.c.disabled == 0)).one_or_none()
    return (bytes.fromhex(row.salt), row.password) if row is not None else (_NOBODY, "")


def same(one: str, two: str) -> bool:
    """Compared in the same time wherever they differ."""
    return hmac.compare_digest(one, two)


def open_session(c: Connection, name: str, token: str, now: float, seconds: float) -> None:
    c.execute(insert(schema.session), {"digest": token_digest(token), "account": name, "at": now, "until": now + seconds, "revoked": 0})


_s, _a = schema.session, schema.account
_OF_TOKEN = (
    select(_a)
    .join(_s, _s.c.account == _a.c.name)
    .where(_s.c.digest == bindparam("token"), _s.c.revoked == 0, _s.c.until > bindparam("now"), _a.c.disabled == 0)
)


def account_of(c: Connection, token: str, now: float) -> Account | None:
    """Whose session this token opens; None when it is unknown, over or revoked, or the account disabled."""
    row = run(c, _OF_TOKEN, token=token_digest(token), now=now).one_or_none()
    return None if row is None else Account(row.name, row.annotator, row.role)


def get_account(c: Connection, name: str) -> Account | None:
    row = c.execute(select(schema.account).where(schema.account.c.name == name)).one_or_none()
    return None if row is None else Account(row.name, row.annotator, row.role, bool(row.disabled))


def role_of(c: Connection, annotator: str) -> str:
    """The role of the annotator's account; empty without an account, or when it is disabled."""
    a = schema.account
    return c.execute(select(a.c.role).where(a.c.annotator == annotator, a.c.disabled == 0)).scalar() or ""


def accounts(c: Connection) -> tuple[Account, ...]:
    rows = c.execute(select(schema.account).order_by(schema.account.c.name))
    return tuple(Account(r.name, r.annotator, r.role, bool(r.disabled)) for r in rows)


def revoke(c: Connection, *, token: str = "", name: str = "") -> int:
    """End one session, or all of an account. Returns how many ended."""
    s = schema.session
    hit = s.c.digest == token_digest(token) if token else s.c.account == name
    return c.execute(update(s).where(hit, s.c.revoked == 0).values(revoked=1)).rowcount


def change_account(c: Connection, name: str, **changes: Any) -> None:
    """Change role, ``disabled``, or salt and password. Sessions of a disabled account, or with an old password, end."""
    if c.execute(update(schema.account).where(schema.account.c.name == name).values(**changes)).rowcount == 0:
        raise DataError(f"user {name!r} is not in the store")
    if changes.get("disabled") or "password" in changes:
        revoke(c, name=name)


def add_invitation(c: Connection, token: str, role: AccountRole, campaign: str, uses: int, until: float, who: str) -> None:
    if role not in ACCOUNT_ROLES or uses < 1:
        raise ConfigError(f"an invitation needs a role ({', '.join(ACCOUNT_ROLES)}) and at least one use")
    row = {"digest": token_digest(token), "role": role, "campaign": campaign, "uses_left": uses, "until": until, "who": who}
    c.execute(insert(schema.invitation), row)


def use_invitation(c: Connection, token: str, now: float) -> tuple[AccountRole, str]:
    """(role, campaign) of an invitation, which is used once more. Raises DataError when it is unknown, used up or over."""
    i = schema.invitation
    row = c.execute(select(i).where(i.c.digest == token_digest(token))).one_or_none()
    if row is None or row.uses_left < 1 or row.until <= now:
        raise DataError("this invitation is unknown, used up or over", "ask for a new one")
    c.execute(update(i).where(i.c.digest == row.digest).values(uses_left=row.uses_left - 1))
    return row.role, row.campaign


def note(c: Connection, who: str, what: str, detail: Mapping[str, Any], now: float) -> None:
    """Add to the audit: who did what, when."""
    seq = (c.execute(select(func.max(schema.audit.c.seq))).scalar() or 0) + 1
    c.execute(insert(schema.audit), {"seq": seq, "who": who, "what": what, "detail": dumps(dict(detail)), "at": now})


def notes(c: Connection, limit: int) -> list[dict[str, Any]]:
    """The last entries of the audit, newest first."""
    a = schema.audit
    rows = c.execute(select(a).order_by(a.c.seq.desc()).limit(limit))
    return [{"seq": r.seq, "who": r.who, "what": r.what, "detail": json.loads(r.detail), "at": r.at} for r in rows]
