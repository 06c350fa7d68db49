"""`keel watchbench`: arguments, and what is printed. Nothing heavy is imported until something is asked for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import UserError


def add_arguments(top: argparse.ArgumentParser) -> None:
    """The arguments of ``keel watchbench``."""
    whats = top.add_subparsers(dest="what", required=True, metavar="record|pack|judge|guard|peers|trainers")
    record = whats.add_parser("record", help="run all runs and keep what they report; goes on where it was stopped")
    record.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where records are kept while the bench is under way")
    record.add_argument("--only", nargs="+", default=[], metavar="FAMILY", help="healthy, explosion ... (default: all)")
    record.add_argument("--most", type=int, default=0, metavar="N", help="stop after so many runs; 0: all")
    record.add_argument("--act", action="store_true", help="with the guard acting, for `guard`")
    record.add_argument("--threads", type=int, default=1, help="CPU threads")
    pack = whats.add_parser("pack", help="write records as one compressed file for each family")
    pack.add_argument("folder", type=Path, nargs="+", help="of `record`")
    pack.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where they go")
    judge = whats.add_parser("judge", help="what rules and diagnosis say of the records, beside what is true of them")
    judge.add_argument(
        "--records", type=Path, metavar="FOLDER", help="of `record` or `pack` (default: those that come with the repository)"
    )
    judge.add_argument("--rules", default="", metavar="FILE", help="a rule file in place of the default rules")
    judge.add_argument("--logs", nargs="+", type=Path, default=[], metavar="LOG", help="real logs of yours beside them; nothing is copied")
    judge.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    judge.add_argument("--plot", type=Path, metavar="FILE", help="draw each rule's curve over its limit there (PNG, SVG or PDF)")
    peers = whats.add_parser("peers", help="public tools on the same records, those that are installed")
    peers.add_argument("--records", type=Path, metavar="FOLDER", help="as for `judge`")
    peers.add_argument("--json", type=Path, metavar="FILE", help="write what each says of each run there")
    trainers = whats.add_parser("trainers", help="the same records with the metrics that other trainers report, under their names")
    trainers.add_argument("--records", type=Path, metavar="FOLDER", help="as for `judge`")
    trainers.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    guard = whats.add_parser("guard", help="what an acting guard costs healthy runs: the same runs with and without it")
    guard.add_argument("acting", type=Path, metavar="FOLDER", help="of `record --act --only healthy`")
    guard.add_argument("--records", type=Path, metavar="FOLDER", help="the same runs without (default: those of the repository)")
    guard.add_argument("--json", type=Path, metavar="FILE", help="write the pairs there")


def run(args: argparse.Namespace) -> None:
    """Do what was asked for. Raises UserError for what cannot be done."""
    {"record": _record, "pack": _pack, "judge": _judge, "guard": _guard, "peers": _peers, "trainers": _trainers}[args.what](args)


def _record(args: argparse.Namespace) -> None:
    from labs.watchbench.plan import all_runs
    from labs.watchbench.store import FAMILIES

    if unknown := [name for name in args.only if name not in FAMILIES]:
        raise UserError(f"no family is named {', '.join(unknown)}", f"one of: {', '.join(FAMILIES)}")
    if args.threads < 1 or args.most < 0:
        raise UserError("--threads is at least 1, --most is not below 0")
    import torch

    from labs.watchbench.make import make

    torch.set_num_threads(args.threads)
    runs = [r for r in all_runs() if not args.only or r.family in args.only]
    made = make(runs, args.out, args.act, args.most)
    print(f"{made} runs recorded in {args.out}")


def _pack(args: argparse.Namespace) -> None:
    from labs.watchbench.store import pack

    sizes = pack(args.folder, args.out)
    print(f"{sum(sizes.values()) / 1e6:.2f} MB in {len(sizes)} files in {args.out}")


def _judge(args: argparse.Namespace) -> None:
    from keel.watch.config import WatchConfig
    from keel.watch.rule_files import resolve
    from labs.watchbench import plots, report
    from labs.watchbench.judge import verdicts
    from labs.watchbench.roc import curve
    from labs.watchbench.store import tuned_on
    from labs.watchbench.summary import halves, summary

    config = WatchConfig(defaults=not args.rules, files=(args.rules,) if args.rules else ())
    stored = _stored(args.records)
    found = verdicts(stored, config)
    names = [rule.name for rule in resolve(config) if rule.level != "info"]
    whole: dict[str, Any] = {half: summary(of, names) for half, of in halves(found, tuned_on()).items()}
    print(report.markdown(whole))
    if args.logs:
        whole["logs"] = [_log(path, config) for path in args.logs]
        print("\n" + report.logs(whole["logs"]))
    if args.plot is not None:
        curves = {name: curve(name, sweep, stored) for name, sweep in plots.SWEEPS.items()}
        plots.draw(curves, args.plot)
        whole["curves"] = {name: [_plain(p) for p in points] for name, points in curves.items()}
    _write(args.json, whole)


def _log(path: Path, config: Any) -> dict[str, Any]:
    """What is said of a real log."""
    from keel.evaluate.run_diagnosis import diagnose
    from keel.runs.columns import Columns
    from keel.watch.foreign import read_log
    from keel.watch.replay import replay

    log = read_log(path)
    findings = replay(log.rows, config).findings
    symptoms = diagnose(Columns.of_rows({"step": step, **metrics} for step, metrics in log.rows))
    first = next((s for s in symptoms if s.causes), symptoms[0] if symptoms else None)
    return {
        "name": path.name,
        "form": log.form,
        "rows": len(log.rows),
        "alarms": [(f.rule, f.step) for f in findings if f.state == "firing" and f.level != "info"],
        "symptom": first.name if first else "",
        "cause": first.causes[0].name if first and first.causes else "",
    }


def _guard(args: argparse.Namespace) -> None:
    from labs.watchbench.guarded import cost, pairs
    from labs.watchbench.plan import HEALTHY
    from labs.watchbench.report import percent
    from labs.watchbench.store import FOLDER, read

    found = pairs(list(read(args.records or FOLDER, HEALTHY)), list(read(args.acting, HEALTHY)))
    if not found:
        raise UserError(f"{args.acting} holds no healthy run that is also among the records", "keel watchbench record --act --only healthy")
    price = cost([p["without"] for p in found], [p["guarded"] for p in found], [p["start"] for p in found])
    same, acted = sum(p["same"] for p in found), sum(p["actions"] > 0 for p in found)
    print(f"{len(found)} pairs: the guard acted in {acted}, {same} are the same in every metric")
    print(f"it cost {percent(_plain(price))} of what was learned")
    _write(args.json, {"cost": _plain(price), "pairs": found})


def _peers(args: argparse.Namespace) -> None:
    from labs.watchbench import report
    from labs.watchbench.judge import verdicts
    from labs.watchbench.peers import ask

    stored = _stored(args.records)
    said = ask(stored)
    print(report.peers(verdicts(stored), said))
    _write(args.json, said)


def _trainers(args: argparse.Namespace) -> None:
    from labs.watchbench import report
    from labs.watchbench.trainers import ask

    found = ask(_stored(args.records))
    print(report.trainers(found))
    _write(args.json, found)


def _stored(folder: Path | None) -> list[Mapping[str, Any]]:
    from labs.watchbench.store import FAMILIES, FOLDER, read

    found: Sequence[Mapping[str, Any]] = [row for family in FAMILIES for row in read(folder or FOLDER, family)]
    if not found:
        raise UserError(f"{folder or FOLDER} holds no records", "keel watchbench record --out FOLDER makes them")
    return list(found)


def _plain(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


def _write(path: Path | None, found: Mapping[str, Any]) -> None:
    from keel.runs.logs import plain

    if path is not None:
        try:
            path.write_text(json.dumps(plain(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {path} cannot be written: {error.strerror}") from None
