"""For everybody: by keyboard alone, with a screen reader, in the dark, on a phone, in Chinese."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_tools import looked_at, png, ready, saved, task, vote

KINDS = {"pairwise": 2, "ranking": 4, "rating": 1, "spans": 2}
STATIC = Path(__file__).parents[3] / "keel" / "web" / "static"

CONTRAST = """() => {
  const parse = (css) => {
    const probe = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    probe.fillStyle = css; probe.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(parse(getComputedStyle(e).backgroundColor));
    return layers.reduce((under, [r, g, b, a]) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a)), [255, 255, 255]);
  };
  const bad = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || element.closest('.unseen, .skip, math') || !element.checkVisibility() || element.closest('button:disabled')) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    const which = `${element.tagName}.${element.className} "${element.textContent.slice(0, 20)}"`;
    if (ratio < (large ? 3 : 4.5)) bad.push(`${which} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""

NAMES = """() => {
  const words = (ids) => ids.split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join(' ').trim();
  const name = (e) => e.getAttribute('aria-label') || words(e.getAttribute('aria-labelledby') ?? '')
    || e.labels?.[0]?.textContent.trim() || e.textContent.trim() || e.title;
  const kinds = 'button, a[href], input, textarea, select, [tabindex="0"], [role=group], section, dialog';
  const controls = [...document.querySelectorAll(kinds)].filter((e) => e.checkVisibility());
  const twice = [...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i);
  const refers = (e) => ['aria-labelledby', 'aria-describedby'].flatMap((a) => (e.getAttribute(a) ?? '').split(' ')).filter(Boolean);
  const dangling = [...document.querySelectorAll('*')].flatMap(refers).filter((id) => !document.getElementById(id));
  const said = [...document.querySelectorAll('[data-say]')].map((e) => e.textContent || e.getAttribute('aria-label') || '');
  const keys = said.filter((text) => /^[a-z]+_[a-z_0-9]+$/.test(text));
  const unnamed = controls.filter((e) => !name(e)).map((e) => e.outerHTML.slice(0, 120));
  return { unnamed, twice, dangling, keys, count: controls.length };
}"""


def page_of(kind: str, site: Callable[..., Any], visit: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    pictures = {"prompt": looked_at(0, png())} if kind in ("rating", "spans") else {}
    where = site([task(0, kind, KINDS[kind], **pictures), task(1, kind, KINDS[kind])])
    return where, visit(where, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_has_a_name(site: Callable[..., Any], visit: Callable[..., Any], kind: str) -> None:
    _, page = page_of(kind, site, visit)
    for opens in ("", "?", "g"):
        if opens:
            page.keyboard.press(opens)
        found = page.evaluate(NAMES)
        assert found["count"] > 8
        assert {name: found[name] for name in ("unnamed", "twice", "dangling", "keys")} == {
            "unnamed": [],
            "twice": [],
            "dangling": [],
            "keys": [],
        }
        page.keyboard.press("Escape")
    landmarks = page.evaluate("() => ['header', 'main', 'h2'].map((tag) => document.querySelectorAll(tag).length > 0)")
    assert landmarks == [True, True, True]
    assert page.locator("[role=status]").count() >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_words_stand_out_from_their_ground(site: Callable[..., Any], visit: Callable[..., Any], kind: str, scheme: str) -> None:
    """WCAG AA, computed for all words on the page, chosen buttons and marks too."""
    _, page = page_of(kind, site, visit, color_scheme=scheme)
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
    if kind == "spans":
        page.locator(".plain").first.focus()
        for i in range(6):
            page.keyboard.press("ArrowRight")
            page.keyboard.press(str(i + 1))
    elif kind != "pairwise":
        for key in "12":
            page.keyboard.press(key)
    else:
        vote(page, "2")
        page.keyboard.press("u")
        page.wait_for_selector(".choice[aria-pressed=true]")
    ready(page)
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("kind", KINDS)
def test_all_by_keyboard_in_a_sensible_order(site: Callable[..., Any], visit: Callable[..., Any], kind: str) -> None:
    """Tab reaches every control that can be used, from the top of the page to its end, and the focus is always seen."""
    _, page = page_of(kind, site, visit)
    page.evaluate("() => document.querySelector('.skip').focus()")
    tops: list[float] = []
    reached: set[str] = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const e = document.activeElement;
              if (e === document.body) return null;
              const style = getComputedStyle(e.matches('.value input') ? e.parentElement : e);
              const group = e.closest('#tools, .prompt, .answers, .panel');
              const order = [...document.querySelectorAll('#tools, .prompt, .answers, .panel')].indexOf(group);
              return { order, outline: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2, what: e.outerHTML };
            }"""
        )
        if found is None:
            break
        assert found["outline"], found["what"][:200]
        reached.add(found["what"])
        if found["order"] >= 0:
            tops.append(found["order"])
    assert tops == sorted(tops)
    expected = page.evaluate(
        """() => [...document.querySelectorAll('button, textarea, .view, .plain')]
          .filter((e) => e.checkVisibility() && !e.disabled && !e.closest('dialog')).length"""
    )
    assert len(reached) >= expected


def test_the_focus_goes_on_to_the_next_item(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """After a vote by a button the focus is in the new item, not lost at the top of the page."""
    where = site([task(i) for i in range(3)])
    page = visit(where)
    handle = ready(page)
    page.locator(".choice.tie").click()
    ready(page, handle)
    assert page.evaluate("() => document.activeElement.id") == "stage"
    page.keyboard.press("Tab")
    assert page.evaluate("() => Boolean(document.activeElement.closest('.item'))")


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_phone(site: Callable[..., Any], visit: Callable[..., Any], kind: str) -> None:
    """390 pixels: nothing sticks out, answers stand under each other, buttons are large enough for a thumb."""
    _, page = page_of(kind, site, visit, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    lefts = page.evaluate("() => [...document.querySelectorAll('.answer')].map((e) => e.getBoundingClientRect().left)")
    assert len(set(lefts)) == 1
    small = page.evaluate(
        """() => [...document.querySelectorAll('.panel button, .value')].filter((e) => e.checkVisibility())
          .map((e) => e.getBoundingClientRect()).filter((r) => r.height < 38 || r.width < 28).length"""
    )
    assert small == 0


def test_chinese_and_back_without_losing_the_work(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i, "ranking", 3) for i in range(2)])
    page = visit(where, locale="zh-CN")
    assert page.evaluate("() => document.documentElement.lang") == "zh-Hans"
    assert page.locator("button.send span").inner_text() == "提交"
    page.keyboard.press("2")
    page.locator("#tools").get_by_text("English").click()
    page.wait_for_function("() => document.querySelector('button.send span').innerText === 'Send'")
    assert page.locator(".bucket .chip").count() == 1  # the half of a ranking is still there
    handle = ready(page)
    for key in "13":
        page.keyboard.press(key)
    page.locator("button.send").click()
    ready(page, handle)
    assert page.locator("button.send span").inner_text() == "Send"  # the next item too, drawn before the change
    saved(page)
    page.reload()
    ready(page)
    assert page.evaluate("() => document.documentElement.lang") == "en"


def test_the_colours_can_be_chosen_and_stay(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(0)])
    page = visit(where, color_scheme="light")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("button.theme").click()
    page.locator("button.theme").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    ready(page)
    assert page.evaluate(ground) == dark


def test_less_motion(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(0)])
    page = visit(where, reduced_motion="reduce")
    moving = "() => [...document.querySelectorAll('*')].filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0).length"
    assert page.evaluate(moving) == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) > 0


def test_what_happens_is_told_to_screen_readers(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(0, "ranking", 3)])
    page = visit(where)
    page.keyboard.press("3")
    assert page.locator("#quiet").inner_text() == "Order: C"
    page.keyboard.press("1")
    page.keyboard.press("t")
    assert page.locator("#quiet").inner_text() == "Order: C = A"
    assert page.locator("#quiet").get_attribute("role") == "status"


def test_the_catalogues_have_the_same_keys_and_values() -> None:
    """Each text in both languages, with the same places to fill in; and each key that the page uses is there."""
    folder = STATIC / "annotate"
    english, chinese = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("en", "zh"))
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key
        assert text.strip()
        assert chinese[key].strip()
    code = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.js"))
    used = set(re.findall(r"""(?:say|sayLabel|sayTitle): (?:\[)?"([a-z_0-9]+)\"""", code)) | set(
        re.findall(r"""announce\("([a-z_]+)\"""", code)
    )
    assert len(used) > 40
    assert used <= set(english)
