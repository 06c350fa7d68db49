"""Texts that want to be more than text: nothing runs, nothing is fetched, nobody is led away, and the words are seen as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from browser_tools import ready, saved, task

from keel.types import Prompt

CORPUS = {
    "handler": "<img src=x onerror=\"window.hacked='img'\">",
    "script": "</script><script>window.hacked='script'</script>",
    "closes": "</div></section></body></html><script>window.hacked=1</script>",
    "link": "[click](javascript:window.hacked='link') [also](data:text/html,<script>parent.hacked=1</script>)",
    "good link": "[fine](https://example.org/a) and <https://example.org/b> and [mail](mailto:a@example.org)",
    "raw link": '<a href="javascript:hacked=1">x</a>',
    "odd link": "[a](JaVaScRiPt:alert(1)) [b](java\tscript:alert(1)) [c](&#106;avascript:alert(1)) [d](vbscript:x) [e](//example.org/x)",
    "svg": "<svg onload=\"window.hacked='svg'\"><script>hacked=1</script><a xlink:href='javascript:hacked=1'><text>x</text></a></svg>",
    "math": "<math><mtext><table><mglyph><style><img src onerror=window.hacked=1></style></mglyph></table></mtext></math>",
    "tex": r"$\text{<img src=x onerror=window.hacked=1>}$ $$\href{javascript:hacked=1}{x}$$ $" + "{" * 200 + "$",
    "style": "<style>body{display:none}</style><p style='position:fixed;inset:0;background:red'>x</p>",
    "frame": "<iframe src='javascript:parent.hacked=1'></iframe><object data=x></object><embed src=x><base href='https://example.org/'>",
    "form": "<form action='https://example.org'><input name=a autofocus onfocus=window.hacked=1><button>Send</button></form>",
    "clobber": '<a id="stage" name="body">x</a><img name="getElementById"><input id=toast>',
    "bidi": "user \u202egnp.exe\u202c and \u2066isolated\u2069 and \u200fmark and \ufeff zero\u200bwidth",
    "code": "```html\n<script>window.hacked=1</script>\n```\n`<b onclick=hacked=1>`",
    "table": "|a|b|\n|---|---|\n|<img src=x onerror=window.hacked=1>|[x](javascript:hacked=1)|",
    "template": "{{ 7*7 }} ${7*7} <%= 7*7 %> {% raw %}",
    "nested": "*" * 3000 + "[" * 3000 + ">" * 2000,
    "backticks": "`" * 5001 + "\n" + "~" * 999 + "\n- " * 500,
    "control": "a\x00b\x07c\x1b[31mred\u2028line\u2029para",
    "zalgo": "Z" + "\u0300\u0301\u0302" * 200,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 50,
    "huge": "word " * 60000,
    "one word": "x" * 100000,
}


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
