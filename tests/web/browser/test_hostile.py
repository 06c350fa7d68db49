"""Texts that want to be more than text: nothing runs, nothing is fetched, nobody is led away, and the words are seen as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from browser_tools import ready, saved, task
from hostile_texts import CORPUS

from keel.types import Prompt


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("kind", ["pairwise", "spans"])
def test_it_stays_text(site: Callable[..., Any], visit: Callable[..., Any], name: str, kind: str) -> None:
    text = CORPUS[name]
    texts = (text, "fine") if kind == "pairwise" else (text,)
    where = site([task(0, kind, texts=texts, prompt=Prompt("p", text=text))])
    page = visit(where, item=False)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.reload()
    ready(page)
    assert page.evaluate("() => window.hacked") is None
    found = page.evaluate(
        """() => {
          const inside = [...document.querySelectorAll('.text *')];
          return {
            tags: [...new Set(inside.map(e => e.localName))],
            handlers: inside.filter(e => [...e.attributes].some(({name}) => /^(on.*|style|id)$/.test(name))).length,
            links: [...document.querySelectorAll('.text a[href]')].map(a => [a.href, a.target, a.rel]),
          };
        }"""
    )
    assert not {"script", "img", "svg", "iframe", "object", "embed", "form", "input", "button", "style", "base", "video"} & set(
        found["tags"]
    )
    assert found["handlers"] == 0
    assert len(found["links"]) == (6 if (name, kind) == ("good link", "pairwise") else 3 if name == "good link" else len(found["links"]))
    for href, target, rel in found["links"]:
        assert href.startswith(("https://", "http://", "mailto:"))
        assert target == "_blank"
        assert {"noopener", "noreferrer"} <= set(rel.split())
    assert all(url.startswith(where.url) for url in asked)
    width = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, "the text pushes the page wider than the screen"
    if kind == "spans":
        assert page.evaluate("() => document.querySelector('.plain').textContent") == text
    page.keyboard.press("x")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert len(where.votes()) == 1


@pytest.mark.parametrize("kind", ["ranking", "rating"])
def test_it_stays_text_where_several_are_shown_or_one_is_rated(site: Callable[..., Any], visit: Callable[..., Any], kind: str) -> None:
    """The same texts on the other kinds of pages."""
    short = [text for text in CORPUS.values() if len(text) < 1000]
    shown = [[*short[i : i + 4], "fine"] for i in range(0, len(short), 4)] if kind == "ranking" else [[text] for text in short]
    where = site([task(i, kind, texts=tuple(texts), prompt=Prompt(f"p{i}", text=texts[0])) for i, texts in enumerate(shown)])
    page = visit(where, item=False)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.reload()
    handle = ""
    for _ in shown:
        handle = ready(page, handle)
        assert page.evaluate("() => window.hacked") is None
        tags = page.evaluate("() => [...document.querySelectorAll('.text *')].map(e => e.localName)")
        assert not {"script", "img", "svg", "iframe", "object", "embed", "form", "input", "style", "base"} & set(tags)
        page.keyboard.press("x")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert len(where.votes()) == len(shown)
    assert all(url.startswith(where.url) for url in asked)


def test_marks_that_turn_the_direction_are_seen(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(0, texts=(CORPUS["bidi"], "fine"))])
    page = visit(where)
    shown = page.locator(".answers").inner_text()
    assert all(code in shown for code in ("[U+202E]", "[U+202C]", "[U+2066]", "[U+200F]", "[U+FEFF]", "[U+200B]"))
    assert "\u202e" not in shown


def test_the_policy_holds(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """No script and no style but from files of the server; the page itself breaks none of it (its console is watched)."""
    where = site([task(0)])
    page = visit(where)
    policy = page.request.get(where.url + "/annotate").headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "style-src 'self'" in policy
    assert "unsafe" not in policy
    source = page.request.get(where.url + "/annotate").text()
    assert not re.search(r"\s(on[a-z]+|style)=", source)
    other = page.context.new_page()  # its console is not watched: it will tell of what was stopped
    other.goto(where.url + "/annotate")
    ran = other.evaluate(
        """async () => {
          const script = document.createElement('script');
          script.textContent = 'window.inline = 1';
          document.body.append(script);
          document.body.insertAdjacentHTML('beforeend', '<p id=styled style="color: red">x</p>');
          const found = [window.inline ?? null, getComputedStyle(document.getElementById('styled')).color];
          return found;
        }"""
    )
    assert ran[0] is None
    assert ran[1] != "rgb(255, 0, 0)"
