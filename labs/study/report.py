"""Tables and plots of the studies, from what their files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.figures import grid, save
from keel.evaluate.blindness import LIMITS, NATS, SD
from labs.study.looking import KINDS, most_of

METHODS = {"best_of_n": "best of n", "rl": "RL", "dpo": "DPO"}
Found = Mapping[str, Any]


def markdown(found: Found) -> str:
    """The table of a study and what it found."""
    tables = {"overoptimisation": _overoptimisation_table, "frontier": _frontier_table, "looking": _looking_table}
    return tables[found["study"]](found)


def plot(found: Found, file: Path) -> None:
    """The curves of a study as a PNG."""
    plots = {"overoptimisation": _overoptimisation_plot, "frontier": _frontier_plot, "looking": _looking_plot}
    save(plots[found["study"]](found), file, "--out")


def between(s: Mapping[str, float | None], digits: int = 2) -> str:
    """A mean with its interval, where there is one."""
    mean = f"{s['mean']:.{digits}f}"
    return mean if s["low"] is None else f"{mean} [{s['low']:.{digits}f}, {s['high']:.{digits}f}]"


# --------------------------------------------------------------------------------------------------------------- over-optimisation


def _overoptimisation_table(found: Found) -> str:
    lines = [
        "| optimised by | for | KL at peak | gold at peak | gold at end | KL at end | gold falls by | proxy rises meanwhile by | shape |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in found["curves"]:
        top, end = c["peak"], c["points"][-1]
        numbers = f"{top['kl']:.1f} | {top['gold']:.2f} | {end['gold']:.2f} | {end['kl']:.1f}"
        shape = "found" if c["verdict"]["found"] else "no"
        lines.append(
            f"| {METHODS[c['method']]} | {c['reward']} | {numbers} | {between(c['fall'])} | {between(c['proxy_after'])} | {shape} |"
        )
    return "\n".join([*lines, "", *_verdicts(found)])


def _verdicts(found: Found) -> list[str]:
    lines: list[str] = []
    for name, verdict in found["verdicts"].items():
        lines.append(f"- **{METHODS.get(name, name)}**: {'found' if verdict['found'] else 'not found'}")
        lines += [f"  - {reason}" for reason in verdict["reasons"]]
    return [*lines, f"- **verdict**: {'; '.join(found['verdict']['reasons'])}"]


def _overoptimisation_plot(found: Found) -> Any:
    figure, axes = grid(1, len(METHODS), 13, 4.2)
    for axis, method in zip(axes[0], METHODS, strict=True):
        curves = [c for c in found["curves"] if c["method"] == method]
        for k, c in enumerate(curves):
            _line(axis, c["points"], "gold", c["reward"], f"C{k}", "-")
            _line(axis, c["points"], "proxy", None, f"C{k}", ":")
        _clip(axis, [p[name] for c in curves for p in c["points"] for name in ("gold", "proxy")])
        axis.set(xlabel="square root of the KL to the start, nats", ylabel="reward", title=f"{METHODS[method]}: gold (line), proxy (dots)")
        axis.axhline(0.0, color="0.8", linewidth=0.8)
        axis.legend(fontsize=7)
    return figure


def _line(axis: Any, points: Sequence[Mapping[str, float]], name: str, label: str | None, colour: str, style: str) -> None:
    x, y = [p["sqrt_kl"] for p in points], [p[name] for p in points]
    axis.plot(x, y, style, color=colour, label=label, linewidth=1.2)
    low, high = ([p[name] + sign * p[f"{name}_se"] for p in points] for sign in (-1, 1))
    axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def _clip(axis: Any, values: Sequence[float]) -> None:
    """Room for all that happens above -2; what falls deeper leaves the picture."""
    axis.set_ylim(max(min(values), -2.0) - 0.2, max(values) + 0.2)


# ----------------------------------------------------------------------------------------------------------------------- frontier


def _frontier_table(found: Found) -> str:
    equal = found["equal"]
    lines = ["| algorithm | strength | KL | gold | proxy | on the front |", "|---|---|---|---|---|---|"]
    for r in found["runs"]:
        numbers = " | ".join(
            f"{r[name]:.{digits}f} ± {r[f'{name}_se']:.{digits}f}" for name, digits in (("kl", 1), ("gold", 2), ("proxy", 2))
        )
        lines.append(f"| {r['algorithm']} | {r['strength']:g} | {numbers} | {'yes' if r['pareto'] else ''} |")
    kls = list(found["algorithms"][0]["gold_at_kl"])
    lines += [
        "",
        f"| algorithm | {' | '.join(f'gold for a KL of {kl}' for kl in kls)} | mean up to there |",
        "|---" * (len(kls) + 2) + "|",
    ]
    for a in found["algorithms"]:
        lines.append(f"| {a['algorithm']} | {' | '.join(between(a['gold_at_kl'][kl]) for kl in kls)} | {between(a['mean_gold'])} |")
    told = f"{equal['votes']} votes on answers to {equal['prompts']} prompts, {equal['trained_answers']} answers trained on"
    return "\n".join([*lines, "", f"Equal for all: {equal['model']}, {told}, optimizer and learning rate."])


def _frontier_plot(found: Found) -> Any:
    figure, ((axis,),) = grid(1, 1, 8, 5)
    for k, name in enumerate(a["algorithm"] for a in found["algorithms"]):
        runs = [r for r in found["runs"] if r["algorithm"] == name]
        for r in runs:
            axis.plot([p["kl"] for p in r["points"]], [p["gold"] for p in r["points"]], "-", color=f"C{k}", linewidth=0.6, alpha=0.5)
        ends = [[r[key] for r in runs] for key in ("kl", "gold", "kl_se", "gold_se")]
        axis.errorbar(ends[0], ends[1], xerr=ends[2], yerr=ends[3], fmt="o", color=f"C{k}", label=name, markersize=5, linewidth=0.8)
    front = sorted((r["kl"], r["gold"]) for r in found["runs"] if r["pareto"])
    axis.step([kl for kl, _ in front], [gold for _, gold in front], where="post", color="black", linestyle="--", label="Pareto front")
    _clip(axis, [r["gold"] for r in found["runs"]])
    axis.set(xlabel="KL to the start, nats a sequence", ylabel="gold reward", title="Ends (dots) and ways there (thin lines)")
    axis.legend(fontsize=8)
    return figure


# ------------------------------------------------------------------------------------------------------------------------ looking


def _looking_table(found: Found) -> str:
    head = [
        "model",
        "starts from",
        "trained on",
        "models",
        "that see",
        "right",
        "right with the image swapped",
        "swapped",
        "greyed",
        "blurred",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for of, start, kind in dict.fromkeys((r["of"], r["start"], r["kind"]) for r in found["runs"]):
        runs = [r for r in found["runs"] if (r["of"], r["start"], r["kind"]) == (of, start, kind)]
        moved = [_range([_mean_of(r["moved"][change]) for r in runs]) for change in ("swapped", "greyed", "blurred")]
        swapped = _range([r["right_with"]["swapped"] for r in runs]) if of == "reward" else ""
        cells = [
            of,
            start,
            KINDS[kind],
            str(len(runs)),
            str(sum(r["sees"] for r in runs)),
            _range([r["right"] for r in runs]),
            swapped,
            *moved,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| model | statistic | limit | false alarms | misses |", "|---|---|---|---|---|"]
    for r in found["rates"]:
        alarms, misses = f"{r['alarms']} of {r['sees']}", f"{r['misses']} of {r['blind']}"
        lines.append(f"| {r['of']} | {r['statistic']} | {r['limit']:g} | {alarms} | {misses} |")
    return "\n".join(lines)


def _mean_of(moved: Mapping[str, float] | float) -> float:
    return moved["mean"] if isinstance(moved, Mapping) else moved


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"


def _looking_plot(found: Found) -> Any:
    figure, axes = grid(1, 2, 12, 4.2)
    for axis, of in zip(axes[0], ("reward", "policy"), strict=True):
        kinds = list(dict.fromkeys((r["kind"], r["start"]) for r in found["runs"] if r["of"] == of))
        for y, (kind, start) in enumerate(kinds):
            runs = [r for r in found["runs"] if (r["of"], r["kind"], r["start"]) == (of, kind, start)]
            for mark, which in (("o", True), ("x", False)):
                values = [max(most_of(r), 1e-6) for r in runs if r["sees"] is which]
                axis.plot(values, [y] * len(values), mark, color=f"C{y}", markersize=6, alpha=0.7)
        unit = SD if of == "reward" else NATS
        axis.axvline(LIMITS[unit], color="black", linestyle="--", linewidth=0.8)
        axis.set(
            xscale="log",
            xlabel=f"most moved by a changed image, {unit}",
            yticks=range(len(kinds)),
            yticklabels=kinds,
            title=f"{of}: sees (dot), does not (cross)",
        )
    return figure
