"""Advice in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHOWN = 5  # ways that are told with all their reasons


def report(advice: Mapping[str, Any]) -> str:
    """The advice as text."""
    parts = [_data(advice["data"]), _machine(advice), _ways(advice["ranking"])]
    parts += [[f"earlier race: {e['winner']} won on {e['data']} ({e['model']}, {e['at']})"] for e in advice["learned"][:1]]
    if advice["race"]:
        parts.append(_race(advice["race"]))
    parts += [[f"warning: {text}" for text in advice["warnings"]], [advice["unknown"]] if advice["unknown"] else []]
    parts.append([f"start with: {advice['start']}"] if advice["start"] else [f"nothing can be trained yet. {advice['needed']}"])
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _data(d: Mapping[str, Any]) -> list[str]:
    kinds = ", ".join(f"{n} {name}" for name, n in d["kinds"].items())
    c = d["coverage"]
    spoken = ", ".join(f"{name} {n}" for name, n in c["languages"].items())
    lines = [f"data: {d['source']}, layout {d['layout']}: {kinds}; {c['distinct']} different prompts ({spoken})"]
    lines[0] += f", {c['near_duplicates']} nearly repeat another one" if c["near_duplicates"] else ""
    for name, found in c["topics"].items():
        lines += [f"  frequent in {name}: " + ", ".join(f"{w} {n}" for w, n in found.items())] if found else []
    return lines + [f"  {line}" for line in (*_preferences(d["preferences"]), *_votes(d["agreement"]), *_rest(d))]


def _preferences(p: Mapping[str, Any]) -> Iterator[str]:
    if not p:
        return
    votes = f"{p['pairs']} pairs, {p['votes_per_pair']:.2g} votes each"
    yield f"{votes}; strength {p['strength']:.2f}, {p['deterministic']:.0%} certain, {p['ties']:.0%} ties"
    if p["margin"] is not None:
        yield f"stated margin {p['margin']:.2f} on average ({p['with_margin']:.0%} of the pairs)"
    if p["noise"] is not None:
        yield f"about {p['noise']:.0%} of the labels are wrong, from {p['judged_twice']} pairs judged twice and soft labels"
    if p["contradictions"]:
        yield f"{p['contradictions']} contradictions"
    if p["length"]:
        x, ratio = p["length"]["longer_wins"], p["length"]["ratio"]
        yield f"the longer answer wins in {x['mean']:.0%} [{x['low']:.0%}, {x['high']:.0%}] of the pairs, lengths {ratio:.2f} to 1"


def _votes(a: Mapping[str, Any] | None) -> Iterator[str]:
    if a and a["raw"] is not None:
        alpha = f", Krippendorff's alpha {a['alpha']:.2f}" if a["alpha"] is not None else ""
        yield f"{a['annotators']} annotators, {a['votes']} votes; raw agreement {a['raw']:.2f}{alpha}"


def _rest(d: Mapping[str, Any]) -> Iterator[str]:
    if u := d["unpaired"]:
        yield f"{u['answers']} labelled answers, {u['wanted']:.0%} wanted, {u['contradictions']} contradictions"
    if v := d["verifiable"]:
        yield f"{v['share']:.0%} of the prompts have an answer that the verifier {v['verifier']} can check"


def _machine(advice: Mapping[str, Any]) -> list[str]:
    m, model = advice["machine"], advice["model"]
    line = f"machine: {m['device']}, {m['cores']} cores, {m['memory_gb']:.1f} GB free; {m['wide_gflops']:.0f} GFLOP/s in {m['compute']}"
    line += f" ({m['narrow_gflops']:.0f} when decoding)"
    if "parameters" not in model:
        return [line]
    trained = "all weights are trained" if model["mode"] == "full" else "adapters are trained (LoRA)"
    return [line, f"model: {model['spec']}, {_short(model['parameters'])} parameters; {trained}"]


def _ways(ranking: Sequence[Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for place, way in enumerate(ranking, 1):
        cost = _cost(way)
        lines.append(f"{place}. {way['name']} ({way['score']:g} points): {way['title']}{cost}")
        if place <= SHOWN:
            lines += [f"     {r['points']:+g}  {r['why']} [{r['source']}]" for r in way["reasons"]]
            lines.append(f"     {way['command']}")
    return lines


def _cost(way: Mapping[str, Any]) -> str:
    e = way["estimate"]
    if e is None:
        return ""
    misfit = [what for what, fits in (("memory", way["fits_memory"]), ("budget", way["fits_budget"])) if fits is False]
    return f"; about {e['memory_gb']:.1f} GB and {_duration(e['seconds'])}" + (f", over the {' and the '.join(misfit)}" if misfit else "")


def _race(race: Mapping[str, Any]) -> list[str]:
    lines = [f"race: {race['measure']} on {race['held_out_prompts']} prompts, trained on {race['train']} records"]
    for results in race["rounds"]:
        found = ", ".join(f"{r['name']} {r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in results)
        lines.append(f"  {results[0]['steps']} steps: {found}")
    lead = race["lead"]
    clear = "" if race["clear"] else ": not more than chance can make"
    lines.append(f"  {race['winner']} leads {lead['over']} by {lead['mean']:.3f} [{lead['low']:.3f}, {lead['high']:.3f}]{clear}")
    return lines


def _duration(seconds: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} seconds"


def _short(n: float) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g}{name}"
    return f"{n:g}"
