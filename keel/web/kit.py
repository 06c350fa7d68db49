"""What every page and call works with: the store, the settings, who is signed in, how often they called."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, HTTPException, Request
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from keel.feedback import schema
from keel.feedback.db import Account, Campaign, NoLeaseError, Store
from keel.feedback.leases import Lease, lease_of
from keel.web.buckets import Buckets
from keel.web.media import Media
from keel.web.protocol import Page, page_of, protocol_row
from keel.web.settings import WebSettings

T = TypeVar("T")
FRESH = 5.0  # seconds for which a session that was looked up is believed: one ended by another process lives that long
SETTINGS = 2.0  # seconds for which the settings of a campaign are believed
_SESSIONS = 10_000
_LEASES = 50_000


def told(code: str, message: str, todo: str = "") -> dict[str, dict[str, str]]:
    """The body of every refusal: a short name for programs, what is wrong, what to do."""
    return {"error": {"code": code, "message": message, "todo": todo}}


class WebError(HTTPException):
    """A refusal with a status, a short name for programs, and a message for people."""

    def __init__(self, status: int, error: str, message: str, hint: str = "", retry_after: float = 0.0) -> None:
        headers = {"Retry-After": str(max(1, round(retry_after)))} if retry_after else None
        super().__init__(status, told(error, message, hint), headers)


@dataclass(frozen=True, slots=True)
class Known:
    """A campaign as it was told last, with what its pages ask. ``until``: how long that is believed."""

    campaign: Campaign
    page: Page
    protocol: dict[str, Any]  # `protocol_row`
    until: float


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is signed in, and with which session."""

    account: Account
    token: str
    csrf: str  # `csrf_of` the token


def csrf_of(token: str) -> str:
    """What a page of this session must send in ``X-CSRF`` to change something. Another site cannot read it."""
    return hmac.new(token.encode(), b"keel csrf", hashlib.sha256).hexdigest()


class Kit:
    """``store`` is closed by whoever made it."""

    def __init__(self, store: Store, settings: WebSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.settings, self.clock = store, settings, clock
        self.media = Media(store, settings.media)
        limits = settings.limits
        self.calls, self.knocks = Buckets(*limits.calls, clock), Buckets(*limits.knocks, clock)
        self.failures = Buckets(*limits.failures, clock)
        self.failures_account, self.failures_address = Buckets(*limits.failures_account, clock), Buckets(*limits.failures_address, clock)
        self.hashing = asyncio.Semaphore(limits.hashing)
        self.stopping = threading.Event()
        self.streams = 0
        self._sessions: OrderedDict[str, tuple[Caller | None, float]] = OrderedDict()
        self._leases: OrderedDict[tuple[str, str], Lease] = OrderedDict()
        self._campaigns: dict[str, Known] = {}

    async def caller(self, token: str) -> Caller | None:
        """Whose session it is; the database is asked at most every `FRESH` seconds."""
        if not token or len(token) > 200:
            return None
        known = self._sessions.get(token)
        if known is not None and known[1] > self.clock():
            return known[0]
        account = await self.store.read_async(self.store.finding(token))
        found = None if account is None else Caller(account, token, csrf_of(token))
        if found is None:
            self._sessions.pop(token, None)  # guesses are not remembered
            return None
        self._sessions[token] = (found, self.clock() + FRESH)
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return found

    @property
    def people(self) -> int:
        """How many sessions were looked up and not forgotten."""
        return len(self._sessions)

    def remember(self, leases: Iterable[Lease]) -> None:
        """Leases that were just given out. Who, what and in which order never change; ``state`` and ``until`` do and are not asked here."""
        for lease in leases:
            self._leases[lease.annotator, lease.handle] = lease
            if len(self._leases) > _LEASES:
                self._leases.popitem(last=False)

    def lease(self, annotator: str, handle: str) -> Lease:
        """The lease of an item that the person was given. Raises NoLeaseError."""
        known = self._leases.get((annotator, handle))
        if known is not None:
            return known
        le = schema.lease
        mine = select(le).where(le.c.handle == handle, le.c.annotator == annotator)
        row = self.store.read(lambda c: c.execute(mine).one_or_none())
        if row is None:
            raise NoLeaseError("this item was not given to you", "load the page again")
        return lease_of(row)

    def at_hand(self, annotator: str, handle: str) -> bool:
        """Can an answer to this item be checked without asking the database?"""
        lease = self._leases.get((annotator, handle))
        return lease is not None and self.knows(lease.campaign)

    def knows(self, campaign: str) -> bool:
        """Can `campaign` answer without asking the database?"""
        known = self._campaigns.get(campaign)
        return known is not None and known.until > self.clock()

    def campaign(self, name: str) -> Known:
        """A campaign as it was at most `SETTINGS` seconds ago: for what its page asks, not for whether it is paused."""
        return self._campaigns[name] if self.knows(name) else self.keep(self.store.campaign(name))

    def keep(self, campaign: Campaign) -> Known:
        """What the database just told of a campaign. Raises ConfigError for wrong settings of its page."""
        known = self._campaigns.get(campaign.name)
        if known is not None and known.campaign == campaign:
            page, protocol = known.page, known.protocol
        else:
            page = page_of(campaign)
            protocol = protocol_row(campaign, page)
        known = self._campaigns[campaign.name] = Known(campaign, page, protocol, self.clock() + SETTINGS)
        return known

    def forget_sessions(self) -> None:
        """After a session ended: the database is asked again."""
        self._sessions.clear()


async def kit_of(request: Request) -> Kit:
    """Async, though it waits for nothing: what is not runs on a thread of its own."""
    return request.app.state.kit


KitDep = Annotated[Kit, Depends(kit_of)]


def address(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client else ""


def knock(request: Request, kit: Kit) -> None:
    """Counts a call of somebody who is not signed in. Raises WebError 429."""
    wait = kit.knocks.take(address(request))
    if wait:
        raise WebError(429, "often", "too many calls from this address", "wait a little", wait)


async def maybe_caller(request: Request, kit: KitDep) -> Caller | None:
    """Who is signed in, if anybody; for pages that both may see."""
    return await kit.caller(request.cookies.get(kit.settings.cookie, ""))


def check_header(request: Request, caller: Caller | None) -> None:
    """Every change needs the header that other sites cannot set: the session's own value, or any without a session. Raises 403."""
    given = request.headers.get("x-csrf", "")
    if not given or (caller is not None and not hmac.compare_digest(given.encode(), caller.csrf.encode())):
        raise WebError(403, "csrf", "the page is out of date", "load it again")


async def signed_in(request: Request, kit: KitDep) -> Caller:
    """Raises WebError 401 without a session, 429 for too many calls, 403 for a change without the session's header."""
    caller = await maybe_caller(request, kit)
    if caller is None:
        knock(request, kit)
        raise WebError(401, "signed_out", "you are not signed in", "sign in again: nothing that you sent before is lost")
    wait = kit.calls.take(caller.account.name)
    if wait:
        raise WebError(429, "often", "too many calls", "wait a little", wait)
    if request.method not in ("GET", "HEAD"):
        check_header(request, caller)
    return caller


async def manager(caller: Annotated[Caller, Depends(signed_in)]) -> Caller:
    """Raises WebError 403 for everybody else."""
    if caller.account.role != "manager":
        raise WebError(403, "role", "only a manager may do this")
    return caller


CallerDep = Annotated[Caller, Depends(signed_in)]
ManagerDep = Annotated[Caller, Depends(manager)]
MaybeDep = Annotated["Caller | None", Depends(maybe_caller)]


async def off(job: Callable[..., T], *args: Any) -> T:
    """A slow job on a thread of its own."""
    return await run_in_threadpool(job, *args)
