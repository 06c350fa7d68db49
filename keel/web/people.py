"""Signing in and out, invitations, and who one is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from keel.feedback.db import Account
from keel.site.languages import language_of
from keel.web import members
from keel.web.bodies import JoinIn, LoginIn
from keel.web.kit import CallerDep, Kit, KitDep, MaybeDep, WebError, address, check_header, csrf_of, knock, off
from keel.web.protocol import page_of

router = APIRouter(tags=["people"])


@router.get("/api/me")
async def me(request: Request, caller: CallerDep, kit: KitDep) -> dict[str, Any]:
    """Who is signed in, the value for ``X-CSRF``, and the campaigns with how far the person is in each."""
    about, pages = await off(_about, kit, caller.account, caller.csrf)
    return {**about, "language": language_of(request, pages) or "en"}


@router.post("/api/login")
async def login(body: LoginIn, request: Request, response: Response, kit: KitDep) -> dict[str, Any]:
    """Sign in. Wrong ones are counted by account and by address; the answer does not tell which of name and password was wrong."""
    check_header(request, None)
    knock(request, kit)
    who, name = address(request), body.name.strip()
    wait = max(kit.failures.wait(f"{name}\0{who}"), kit.failures_account.wait(name), kit.failures_address.wait(who))
    if wait:
        raise WebError(429, "often", "too many wrong passwords", "wait a little before the next try", wait)
    async with kit.hashing:
        token = await off(kit.store.sign_in, name, body.password, kit.settings.session_seconds)
    if token is None:
        for bucket, key in ((kit.failures, f"{name}\0{who}"), (kit.failures_account, name), (kit.failures_address, who)):
            bucket.take(key)
        raise WebError(401, "wrong_password", "user name or password is wrong", "try again")
    return _signed_in(kit, response, token, name)


@router.post("/api/logout")
async def logout(response: Response, caller: CallerDep, kit: KitDep) -> dict[str, Any]:
    """End this session."""
    await off(kit.store.sign_out, caller.token)
    kit.forget_sessions()
    response.delete_cookie(kit.settings.cookie, path="/", secure=kit.settings.secure, httponly=True, samesite="lax")
    return {"signed_in": False}


@router.post("/api/invitations/{token}")
async def join(token: str, body: JoinIn, request: Request, response: Response, kit: KitDep, caller: MaybeDep) -> dict[str, Any]:
    """Take part by invitation: with a name and a password, by a platform's parameters, or (signed in, with neither) as who one is."""
    check_header(request, None if body.name or body.platform else caller)
    knock(request, kit)
    if body.platform:
        account = await off(members.join_from_platform, kit.store, token, body.platform)
    elif body.name:
        async with kit.hashing:
            account = await off(members.join, kit.store, token, body.name.strip(), body.password)
        if account.role != "annotator":
            await off(lambda: kit.store.note(account.name, "joined", role=account.role))
    elif caller is not None:
        await off(members.join_as, kit.store, token, caller.account)
        return {"name": caller.account.name, "csrf": caller.csrf}
    else:
        raise WebError(400, "field", "name: is empty", "choose a user name")
    session = await off(members.open_session, kit.store, account, kit.settings.session_seconds)
    return _signed_in(kit, response, session, account.name)


def _signed_in(kit: Kit, response: Response, token: str, name: str) -> dict[str, Any]:
    seconds = int(kit.settings.session_seconds)
    response.set_cookie(kit.settings.cookie, token, seconds, path="/", secure=kit.settings.secure, httponly=True, samesite="lax")
    return {"name": name, "csrf": csrf_of(token)}


def _about(kit: Kit, account: Account, csrf: str) -> tuple[dict[str, Any], str]:
    """What is told of a person, and the language that their campaigns ask for; empty when none does."""
    names = members.member_campaigns(kit.store, account)
    found = [kit.store.campaign(name) for name in names]
    rows = [
        {"name": c.name, "kind": c.kind, "paused": c.paused, "state": members.state_of(kit.store, account.annotator, c.name) or "training"}
        for c in found
    ]
    language = next((page_of(c).language for c in found if page_of(c).language), "")
    return {"name": account.name, "roles": [account.role], "csrf": csrf, "campaigns": rows}, language
