"""A run's cases as a page in English and one in Chinese: the failures by group, then cases with all models' answers side by side, what is
wrong in them marked, scores by scorer and people. No script, nothing loaded from elsewhere; every text from outside is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import escape

from keel.evaluate.compare import Answer
from keel.evaluate.report_made_up import pictures, pieces
from keel.evaluate.report_plots import number, percent
from keel.evaluate.turns import turn_text
from keel.runs.durable import write_atomic
from keel.types import Message
from keel.verbs.cases import spoken
from keel.verbs.cases.config import CasesConfig
from keel.verbs.cases.people import Votes, pairs_of
from keel.verbs.cases.read import Case, Read
from keel.verbs.cases.reasons import Reasons

FILES = {"en": "cases.html", "zh": "cases.zh.html"}
_LONGEST = 4000  # characters of an answer on the page
_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)
_CSS = """
.models { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); }
.models .side + .side { border-left: 1px solid var(--line); }
.case { margin-bottom: 18px; padding: 0; } .case-head { padding: 14px 20px; border-bottom: 1px solid var(--line); }
.case-head p { margin: 4px 0; white-space: pre-wrap; } .case-head img { max-height: 168px; border-radius: 6px; margin: 6px 8px 0 0; }
.why { font-size: 12.5px; color: var(--bad); margin: 4px 0 0; } .answer .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.people { padding: 8px 20px 12px; border-top: 1px solid var(--line); }
.scroll td { vertical-align: top; } .scroll td:last-child { white-space: normal; min-width: 220px; overflow-wrap: anywhere; }
@media print { .case { break-inside: avoid; } }
"""


@dataclass
class _Pictures:
    """Small pictures until their room is spent; the others are counted."""

    room: int  # bytes
    left_out: int = 0
    seen: dict[str, str] = field(default_factory=dict[str, str])

    def html(self, sources: tuple[str, ...]) -> str:
        parts: list[str] = []
        for source in sources:
            found = pictures([source])
            if not found or len(found[0]) > self.room:
                self.left_out += 1
                continue
            self.room -= len(found[0])
            parts.append(f"<img src='{found[0]}' alt=''>")
        return "".join(parts)


def write_pages(folder: Path, read: Read, result: Mapping[str, Any], reasons: Reasons, votes: Votes, config: CasesConfig) -> Path:
    """``cases.html`` and ``cases.zh.html``; returns the first."""
    for lang, name in FILES.items():
        write_atomic(folder / name, page(read, result, reasons, votes, config, lang).encode("utf-8", "replace"))
    return folder / FILES["en"]


def page(read: Read, result: Mapping[str, Any], reasons: Reasons, votes: Votes, config: CasesConfig, lang: str) -> str:
    """The page in one language."""
    words: Mapping[str, str] = json.loads((resources.files("keel.verbs.cases") / "lang" / f"{lang}.json").read_text(encoding="utf-8"))
    templates = resources.files("keel.evaluate") / "templates"
    css = "".join((templates / f"{name}.css").read_text(encoding="utf-8") for name in ("report", "page")) + _CSS
    other = next(x for x in FILES if x != lang)
    chips = [
        (words["prompts"], result["prompts"]),
        (words["answers"], result["answers"]),
        (words["scorer"], spoken.who(result["scorer"], words) or "–"),
    ]
    told = "".join(f"<span class='chip'><span class='dim'>{escape(k)}</span> {escape(v)}</span>" for k, v in chips)
    headline = words["headline"].format(failures=result["failures"], answers=result["answers"])
    parts = [f'<!doctype html><html lang="{lang}"><head>{_HEAD}<title>{escape(words["title"])}</title><style>{css}</style></head><body>']
    parts.append(
        f"<header><div class='wrap'><p class='brand'>Keel <span class='dim'>{escape(words['title'])} · {escape(read.run.name)}</span> "
    )
    parts.append(f"<a class='other' href='{FILES[other]}' lang='{other}'>{escape(words['other'])}</a></p>")
    parts.append(f"<h1>{escape(headline)}</h1><p class='chips'>{told}</p></div></header><main class='wrap'>")
    parts.append(_rates(result, read, words))
    parts += [_groups(model, groups, read, reasons, words) for model, groups in result["groups"].items()]
    room = _Pictures(config.picture_kb * 1000)
    chosen = words["choice"].format(
        scorer=spoken.who(result["scorer"], words) or "–", fixed=config.fixed, extremes=config.extremes, random=config.random
    )
    parts.append(f"<section id='cases'><h2>{escape(words['cases'])}</h2><p class='dim small'>{escape(chosen)}</p>")
    for row in result["shown"]:
        parts.append(_case(row["prompt_id"], read.cases[row["prompt_id"]], row["why"], read, reasons, votes, room, words))
    if room.left_out:
        parts.append(f"<p class='dim small'>{escape(words['pictures.left'].format(n=room.left_out))}</p>")
    return "".join([*parts, "</section></main></body></html>\n"])


def _rates(result: Mapping[str, Any], read: Read, words: Mapping[str, str]) -> str:
    """Win rates by scorer, as the evaluation found them."""
    models: Mapping[str, Any] = (read.summary.get("board") or {}).get("models") or {}
    rows = [
        (name, spoken.who(scorer, words), f"{percent(r['mean'])} [{percent(r['low'])}, {percent(r['high'])}]")
        for name, model in models.items()
        for scorer, r in model["win_rates"].items()
    ]
    if not rows:
        return ""
    return _table(words["rates"].format(baseline=read.baseline), [words["model"], words["scorer"], words["rate"]], rows)


def _groups(model: str, groups: list[Mapping[str, Any]], read: Read, reasons: Reasons, words: Mapping[str, str]) -> str:
    rows: list[tuple[str, ...]] = []
    for g in groups:
        rate = g["rate"]
        examples = [read.cases[e["prompt_id"]].sides[e["model"]][e["answer"]] for e in g["examples"]]
        first = [a.text if a.text.strip() else a.shown for a in examples]
        shown = " ⏎ ".join(f"“{_cut(text, 90)}”" for text in dict.fromkeys(first))
        share = f"{percent(rate['mean'])} [{percent(rate['low'])}, {percent(rate['high'])}]"
        rows.append((words[f"by.{g['by']}"], spoken.group(g["by"], g["name"], words), f"{g['failures']} / {g['answers']}", share, shown))
    heads = [words["by"], words["group"], words["count"], words["share"], words["examples"]]
    return _table(f"{words['failures']} · {model}", heads, rows) if rows else ""


def _table(title: str, heads: list[str], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th scope='col'>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    table = f"<div class='card scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    return f"<section><h2>{escape(title)}</h2>{table}</section>"


def _case(
    prompt_id: str, case: Case, why: str, read: Read, reasons: Reasons, votes: Votes, room: _Pictures, words: Mapping[str, str]
) -> str:
    chips = [c for c in (words[f"why.{why}"], spoken.who(case.category, words), case.language) if c]
    told = "".join(f"<span class='chip'>{escape(c)}</span>" for c in chips)
    parts = [
        f"<article class='card case'><div class='case-head'><p class='chips'>{told} <span class='dim small'>{escape(prompt_id)}</span></p>"
    ]
    asked = f"<p lang='{escape(case.language)}' dir='auto'>{escape(_cut(case.text))}</p>"
    if len(case.prompt.messages) > 1:
        asked = _turns([_row(m) for m in case.prompt.messages], case.language, words)
    parts.append(f"{asked}{room.html(case.images)}</div><div class='models'>")
    order = sorted(case.sides, key=lambda m: (m != read.baseline, m not in read.subjects, m))
    for model in order:
        name = f"{model} · {words['baseline']}" if model == read.baseline else model
        answers = "".join(_answer(a, reasons.get((prompt_id, model, n), {}), case.language, words) for n, a in enumerate(case.sides[model]))
        parts.append(f"<div class='side'><h4>{escape(name)}</h4>{answers}</div>")
    parts.append("</div>")
    for pair in pairs_of(prompt_id, case, votes):
        named = [f"{m} {n + 1}" for _, m, n in (pair.first, pair.second)]
        said = words["people"].format(first=named[0], second=named[1], won=pair.won, lost=pair.lost, ties=pair.ties)
        parts.append(f"<p class='people small'>{escape(said)}</p>")
    return "".join([*parts, "</article>"])


def _answer(answer: Answer, reasons: Mapping[str, float], language: str, words: Mapping[str, str]) -> str:
    marked = "".join(
        f"<mark class='wrong {escape(kind)}' title='{escape(spoken.who(kind, words))}'>{escape(text)}</mark>" if kind else str(escape(text))
        for text, kind in pieces(answer, _cut(answer.text))
    )
    names = [name for name in ("gold", "reward_model", *sorted(answer.rules)) if answer.score(name) is not None]
    scores = "".join(f"<span>{escape(spoken.who(name, words))} <b>{number(answer.score(name))}</b></span>" for name in names)
    unit = words["words" if answer.tokens is None else "tokens"]
    why = f"<p class='why'>{escape('; '.join(spoken.reason(r, words) for r in reasons))}</p>" if reasons else ""
    body = f"<p class='text' lang='{escape(language)}' dir='auto'>{marked or _nothing(words)}</p>"
    if answer.turns:
        body = _turns(answer.turns, language, words)
    return f"<div class='answer'>{body}<p class='scores'>{scores}<span class='dim'>{answer.length} {escape(unit)}</span></p>{why}</div>"


def _turns(turns: Sequence[Mapping[str, Any]], language: str, words: Mapping[str, str]) -> str:
    """Who said what, one below the other; what a turn was worth to the world stands beside its name."""
    rows: list[str] = []
    for turn in turns:
        role, reward = str(turn.get("role", "")), turn.get("reward")
        who = " ".join(filter(None, (words.get(f"role.{role}", role), str(turn.get("name") or ""))))
        given = f" <span class='dim small'>{escape(words['turn.reward'])} {number(reward)}</span>" if reward is not None else ""
        text = escape(_cut(turn_text(turn))) or _nothing(words)
        rows.append(f"<li class='{escape(role)}'><b>{escape(who)}</b>{given}<p lang='{escape(language)}' dir='auto'>{text}</p></li>")
    return f"<ol class='turns'>{''.join(rows)}</ol>"


def _row(message: Message) -> dict[str, Any]:
    return {"role": message.role, "text": message.text, **message.extra}


def _nothing(words: Mapping[str, str]) -> str:
    return f"<span class='dim'>{escape(words['empty'])}</span>"


def _cut(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else text[:most] + " …"
