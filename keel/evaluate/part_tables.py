"""What the further parts of an evaluation found, as tables of text: for the terminal and for the page, in either language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keel.evaluate.page_kit import Say
from keel.evaluate.report_plots import number, percent

_LOST = 3  # questions that are shown


@dataclass(frozen=True, slots=True)
class Table:
    """``key``: which part; ``rows`` have as many cells as ``head``."""

    key: str
    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: tuple[str, ...] = ()  # lines below


def tables(summary: Mapping[str, Any], t: Say) -> list[Table]:
    """One table for each part that is there."""
    parts = (
        ("environment", _environment),
        ("gap", _gap),
        ("refusals", _refusals),
        ("hhh", _hhh),
        ("retained", _retained),
        ("lm_eval", _lm_eval),
    )
    return [of(summary, t) for key, of in parts if summary.get(key)]


def lines(summary: Mapping[str, Any], t: Say) -> Iterator[str]:
    """The same for the terminal."""
    for table in tables(summary, t):
        yield f"{table.title}:"
        for row in table.rows:
            yield "  " + ", ".join(cell if i == 0 else f"{head} {cell}" for i, (head, cell) in enumerate(zip(table.head, row)) if cell)
        yield from (f"  {line}" for line in table.more)


def _share(i: Mapping[str, Any] | None) -> str:
    return "–" if i is None else f"{percent(i['mean'])} [{percent(i['low'])}, {percent(i['high'])}]"


def _points(i: Mapping[str, Any] | None) -> str:
    """A difference of shares, in points of a hundred."""
    if i is None:
        return "–"
    return f"{100 * i['mean']:+.1f} [{100 * i['low']:+.1f}, {100 * i['high']:+.1f}]".replace("-", "−")


def _plain(i: Mapping[str, Any]) -> str:
    return f"{number(i['mean'])} [{number(i['low'])}, {number(i['high'])}]" if "low" in i else number(i["mean"])


def _refusals(summary: Mapping[str, Any], t: Say) -> Table:
    rows: list[tuple[str, ...]] = []
    more: list[str] = []
    for name, sides in summary["refusals"].items():
        for side, found in sides.items():
            change = summary["refusal_changes"].get(name, {}).get(side, {}).get("any")
            cells = tuple(_share(found.get(k)) for k in ("full", "partial", "any"))
            rows.append((name, t(f"part.refusals.{side}"), *cells, _points(change) if change else ""))
            if found["empty"] or found["failed"]:
                missing = {"empty": found["empty"], "failed": found["failed"]}
                more.append(t("part.refusals.missing", model=name, side=t(f"part.refusals.{side}"), **missing))
    head = tuple(t(f"part.refusals.{k}") for k in ("model", "prompts", "full", "partial", "any", "change"))
    return Table("refusals", t("part.refusals"), t("part.refusals.note"), head, tuple(rows), tuple(more))


def _environment(summary: Mapping[str, Any], t: Say) -> Table:
    rows: list[tuple[str, ...]] = []
    more: list[str] = []
    for name, found in summary["environment"].items():
        change, turns = found.get("change") or {}, found.get("turns")
        cells = [_share(found.get("success")), _points(change["success"]) if change else ""]
        cells += [_plain(found["reward"]) if "reward" in found else "–", _plain(change["reward"]) if change else ""]
        cells += [f"{number(turns['mean'])} ({turns['max']})" if turns else "–"]
        cells += [percent(sum(found["cut"].values())) if turns else "–", f"{found['bad_calls']:,} / {found['calls']:,}"]
        rows.append((name, *cells))
        if found["failed"]:
            more.append(t("part.environment.failed", model=name, n=found["failed"], all=found["failed"] + found["conversations"]))
    names = ("success", "success_change", "reward", "reward_change", "turns", "cut", "calls")
    head = (t("part.model"), *(t(f"part.environment.{k}") for k in names))
    above = next(iter(summary["environment"].values()))["success_above"]
    note = t("part.environment.note", above=number(above))
    return Table("environment", t("part.environment"), note, head, tuple(rows), tuple(more))


def _hhh(summary: Mapping[str, Any], t: Say) -> Table:
    found = summary["hhh"]
    categories = list(dict.fromkeys(c for m in found.values() for c in m.get("by_category", {})))
    rows = []
    for name, told in found.items():
        gain = summary["hhh_gain"].get(name, {}).get("gain")
        of = told.get("by_category", {})
        cells = [_share(of[c]["accuracy"]) if c in of else "–" for c in categories]
        rows.append((name, _share(told["accuracy"]), *cells, _share(told["accuracy_by_length"]), _points(gain) if gain else ""))
    head = (t("part.model"), t("part.hhh.all"), *categories, t("part.hhh.by_length"), t("part.hhh.gain"))
    return Table("hhh", t("part.hhh"), t("part.hhh.note"), head, tuple(rows))


def _gap(summary: Mapping[str, Any], t: Say) -> Table:
    found = summary["gap"]
    rows = []
    for name, scorers in found["models"].items():
        for scorer, kinds in scorers.items():
            for kind, told in kinds.items():
                shown, moved = (_share, _points) if kind == "win_rate" else (_plain, _plain)
                rows.append((name, scorer, t(f"part.gap.{kind}"), shown(told["in"]), shown(told["out"]), moved(told["gap"])))
    more = [t("part.gap.left_out", set=name, n=n) for name, n in found["left_out"].items()]
    head = tuple(t(f"part.gap.head.{k}") for k in ("model", "scorer", "what", "in", "out", "gap"))
    sizes = ", ".join(f"{name} {n:,}" for name, n in found["prompts"].items())
    return Table("gap", t("part.gap"), t("part.gap.note", sizes=sizes), head, tuple(rows), tuple(more))


def _retained(summary: Mapping[str, Any], t: Say) -> Table:
    rows = []
    more: list[str] = []
    for name, found in summary["retained"].items():
        for part, told in found["parts"].items():
            text = told["kind"] == "text"
            pair = told["perplexity"] if text else told["accuracy"]
            shown = " → ".join(number(v) if text else percent(v) for v in pair)
            loss = f"{_plain(told['loss'])} nats" if text else _points(told["loss"])
            rows.append((name, part, t(f"part.retained.{told['state']}"), shown, loss))
            if told.get("lost"):
                said = "; ".join(q["question"] for q in told["lost"][:_LOST])
                more.append(t("part.retained.lost", model=name, part=part, n=len(told["lost"]), said=said))
        more += [t("part.retained.left_out", model=name, part=part, why=why) for part, why in found.get("left_out", {}).items()]
    head = tuple(t(f"part.retained.head.{k}") for k in ("model", "part", "verdict", "before_after", "loss"))
    return Table("retained", t("part.retained"), t("part.retained.note"), head, tuple(rows), tuple(more))


def _lm_eval(summary: Mapping[str, Any], t: Say) -> Table:
    found: Mapping[str, Any] = summary["lm_eval"]
    skipped = [f"{name}: {told['skipped']}" for name, told in found.items() if "skipped" in told]
    done = {name: told for name, told in found.items() if "results" in told}
    names = list(dict.fromkeys((task, metric) for told in done.values() for task, of in told["results"].items() for metric in of))
    results = [told["results"] for told in done.values()]
    rows = [(f"{task} {m}", *(_plain(r) if (r := of.get(task, {}).get(m)) else "–" for of in results)) for task, m in names]
    more = [t("part.lm_eval.skipped", why=why) for why in skipped]
    for name, told in done.items():
        record = told["record"]
        shots = ", ".join(f"{task} {n}" for task, n in record["shots"].items())
        template = record["chat_template"]["sha256"][:12] or "–"
        facts = {"version": record["lm_eval"], "shots": shots, "limit": record["limit"] or "–", "template": template, "bos": record["bos"]}
        more.append(t("part.lm_eval.record", model=name, cut=record["cut_at_context"], **facts))
    return Table("lm_eval", t("part.lm_eval"), t("part.lm_eval.note"), (t("part.lm_eval.task"), *done), tuple(rows), tuple(more))
