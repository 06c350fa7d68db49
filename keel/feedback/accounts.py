"""The part of the store that knows who may sign in, who did what, and where pictures lie."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from keel.feedback import campaigns, people, schema
from keel.feedback.people import Account, AccountRole

T = TypeVar("T")


class Accounts:
    """Methods of `keel.feedback.db.Store`, which brings ``write``, ``read`` and ``clock``."""

    clock: Callable[[], float]

    def write(self, job: Callable[[Connection], T]) -> Future[T]:
        raise NotImplementedError

    def read(self, job: Callable[[Connection], T]) -> T:
        raise NotImplementedError

    def add_account(self, name: str, password: str, role: AccountRole = "annotator") -> Account:
        """Raises ConflictError when the name is taken, ConfigError for a bad name, password or role."""
        people.check_account(name, password, role)
        salt = people.new_salt()
        hashed = people.password_hash(password, salt)
        return self.write(lambda c: people.add_account(c, name, salt, hashed, role, self.clock())).result()

    def sign_in(self, name: str, password: str, seconds: float = 7 * 86400.0) -> str | None:
        """A token for the session's cookie; None when name or password are wrong. Takes as long for an unknown name."""
        salt, hashed = self.read(lambda c: people.secrets_of(c, name))
        if not people.same(people.password_hash(password, salt), hashed):
            return None
        token = people.new_token()
        self.write(lambda c: people.open_session(c, name, token, self.clock(), seconds)).result()
        return token

    def account_of(self, token: str) -> Account | None:
        """Whose session a token opens."""
        return self.read(self.finding(token))

    def finding(self, token: str) -> Callable[[Connection], Account | None]:
        """`account_of` as a job for ``read_async``."""
        return lambda c: people.account_of(c, token, self.clock())

    def account(self, name: str) -> Account | None:
        return self.read(lambda c: people.get_account(c, name))

    def accounts(self) -> tuple[Account, ...]:
        return self.read(people.accounts)

    def change_account(self, name: str, *, role: AccountRole | None = None, disabled: bool | None = None, password: str = "") -> None:
        """A new password, or ``disabled``, ends the account's sessions."""
        changes: dict[str, Any] = {} if disabled is None else {"disabled": int(disabled)}
        if role is not None:
            changes["role"] = role
        if password or role is not None:
            people.check_account(name, password or "x" * people.SHORTEST, role or "annotator")
        if password:
            salt = people.new_salt()
            changes |= {"salt": salt.hex(), "password": people.password_hash(password, salt)}
        if changes:
            self.write(lambda c: people.change_account(c, name, **changes)).result()

    def sign_out(self, token: str) -> None:
        self.write(lambda c: people.revoke(c, token=token)).result()

    def revoke_sessions(self, name: str) -> int:
        """End all sessions of an account; returns how many."""
        return self.write(lambda c: people.revoke(c, name=name)).result()

    def invite(self, role: AccountRole, campaign: str, uses: int, seconds: float, who: str) -> str:
        """A token for a link with which ``uses`` people may make an account."""
        token = people.new_token()
        until = self.clock() + seconds
        self.write(lambda c: people.add_invitation(c, token, role, campaign, uses, until, who)).result()
        return token

    def accept(self, token: str, name: str, password: str) -> tuple[Account, str]:
        """Make an account by invitation; returns it with the campaign. The invitation is used only when the account was made."""
        people.check_account(name, password, "annotator")
        salt = people.new_salt()
        hashed = people.password_hash(password, salt)

        def job(c: Connection) -> tuple[Account, str]:
            role, campaign = people.use_invitation(c, token, self.clock())
            return people.add_account(c, name, salt, hashed, role, self.clock()), campaign

        return self.write(job).result()

    def note(self, who: str, what: str, **detail: Any) -> None:
        """Add to the audit."""
        self.write(lambda c: people.note(c, who, what, detail, self.clock())).result()

    def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """The last entries, newest first: seq, who, what, detail, at."""
        return self.read(lambda c: people.notes(c, limit))

    def add_media(self, digest: str, path: str, mime: str) -> None:
        """Where the file with this sha256 lies, and what it is."""
        row = {"digest": digest, "path": path, "mime": mime}
        self.write(lambda c: campaigns.add_missing(c, schema.media, [row])).result()

    def media(self, digest: str) -> tuple[str, str] | None:
        """(path, mime) of a file; None when the store does not know it."""
        m = schema.media
        row = self.read(lambda c: c.execute(select(m).where(m.c.digest == digest)).one_or_none())
        return None if row is None else (row.path, row.mime)
