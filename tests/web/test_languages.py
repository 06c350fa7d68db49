"""Both languages say the same things."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import keel.web.pages
from keel.site.languages import LANGUAGES
from keel.web.lang import catalogue

HERE = Path(keel.web.pages.__file__).parent


def test_catalogues_have_the_same_keys_and_holes() -> None:
    en, zh = (catalogue(language) for language in LANGUAGES)
    assert set(en) == set(zh)
    for key, text in en.items():
        assert text.strip()
        assert zh[key].strip()
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", zh[key])), key


def test_catalogues_have_no_key_twice() -> None:
    for language in LANGUAGES:
        pairs = json.loads((HERE / "lang" / f"{language}.json").read_text(encoding="utf-8"), object_pairs_hook=list)
        assert len(pairs) == len(dict(pairs))


def test_every_key_that_pages_name_is_there() -> None:
    known = set(catalogue("en"))
    for path in [*(HERE / "templates").glob("*.html"), *(HERE / "static" / "site").glob("*.js")]:
        text = path.read_text(encoding="utf-8")
        for key in re.findall(r't\["([^"]+)"\]|say\("([^"]+)"|texts\["([^"]+)"\]', text):
            name = next(filter(None, key))
            assert name in known or any(k.startswith(name) for k in known if name.endswith(".")), (path.name, name)


@pytest.mark.parametrize(
    ("header", "cookie", "query", "word"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.1", "", "", "登录"),
        ("en-GB;q=0.2,zh;q=0.1", "", "", "Sign in"),
        ("fr,de;q=x", "", "", "Sign in"),
        ("en", "zh", "", "登录"),
        ("en", "zh", "en", "Sign in"),
        ("en", "xx", "../zh", "Sign in"),
    ],
)
def test_the_language_of_a_page(make_site: Any, header: str, cookie: str, query: str, word: str) -> None:
    client = make_site(1).client()
    headers = {"accept-language": header} | ({"cookie": f"keel-language={cookie}"} if cookie else {})
    page = client.get("/login", params={"lang": query} if query else {}, headers=headers)
    assert f"<h1>{word}</h1>" in page.text


def test_a_chosen_language_is_kept(make_site: Any) -> None:
    client = make_site(1).client()
    client.get("/login?lang=zh")
    assert '<html lang="zh">' in client.get("/login").text


@pytest.mark.parametrize(
    ("chosen", "campaigns", "browsers", "found"),
    [
        ("en", "zh", "zh", "en"),  # whoever chose has it
        ("", "zh", "en-GB,en", "zh"),  # then the campaign
        ("", "en", "zh-CN", "en"),
        ("", "", "zh-CN", "zh"),  # then the browser
        ("", "", "fr", "en"),
    ],
)
def test_the_language_of_the_annotators_page(make_site: Any, chosen: str, campaigns: str, browsers: str, found: str) -> None:
    site = make_site(1, page={"language": campaigns} if campaigns else {})
    ann = site.person()
    if chosen:
        ann.get(f"/login?lang={chosen}")
    assert ann.get("/api/me", headers={"accept-language": browsers}).json()["language"] == found
