"""`keel study`: arguments, and what is printed. Nothing heavy is imported until a study runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keel.core.errors import UserError

STUDIES = {
    "overoptimisation": "gold and proxy reward against KL: best of n, RL and DPO, single reward models and ensembles",
    "frontier": "reward against KL for PPO, GRPO, RLOO, DPO, IPO, KTO and SimPO on equal model, data and budget",
    "looking": "how far reward models and policies move with the image, such that see it and such that are blind, and what makes them see",
}
NUMPY_STUDIES = {
    "annotators": "faults planted in simulated annotators: how soon each is found, and how many honest people are accused",
    "labelling": "labels saved by choosing which pairs people judge, against a random arm",
    "gaming": "how often detectors of gaming speak: on policies that were over-optimised, and on honest texts (files of yours)",
    "crowds": "votes with known truth (files of yours): accuracy and calibration of each way of adding them up",
}
_SEEDS = {"overoptimisation": [0, 1, 2, 3], "frontier": [0, 1, 2], "looking": [0, 1, 2]}
_ROLLOUTS = "sets of rollouts of an RL run; direct losses in step"
_STEPS_ARE = {"overoptimisation": _ROLLOUTS, "frontier": _ROLLOUTS, "looking": "of each training"}
_STEPS = {"overoptimisation": 32, "frontier": 16, "looking": 400}


def add_arguments(top: argparse.ArgumentParser) -> None:
    """The arguments of ``keel study``."""
    whats = top.add_subparsers(dest="what", required=True, metavar="|".join([*STUDIES, *NUMPY_STUDIES]))
    for name, what in STUDIES.items():
        sub = whats.add_parser(name, help=what, description=what)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
        sub.add_argument("--out", type=Path, metavar="FOLDER", help=f"write {name}.md and {name}.png there")
        sub.add_argument("--seeds", nargs="+", type=int, default=_SEEDS[name], metavar="SEED", help="of votes, reward models and runs")
        sub.add_argument("--steps", type=int, default=_STEPS[name], help=_STEPS_ARE[name])
        if name != "looking":
            sub.add_argument("--world", type=int, default=0, metavar="SEED", help="of the gold reward and the start model")
        sub.add_argument("--threads", type=int, default=1, help="CPU threads")

    for name, what in NUMPY_STUDIES.items():
        sub = whats.add_parser(name, help=what, description=what)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
        if name == "annotators":
            sub.add_argument("--honest", type=int, default=4000, help="honest people for each row")
            sub.add_argument("--faulty", type=int, default=1000, help="people with each fault")
            sub.add_argument("--clarity", type=float, default=1.2, help="how far apart answers are, in units of noise")
            sub.add_argument("--seed", type=int, default=0, help="of the simulation")
        elif name == "labelling":
            sub.add_argument("--worlds", type=int, default=40, help="simulated worlds, each learnt by both arms")
            sub.add_argument("--seed", type=int, default=0, help="of the simulation")
        elif name == "gaming":
            sub.add_argument(
                "--optimise", type=Path, metavar="FOLDER", help="over-optimise small policies there first, where it is not done"
            )
            sub.add_argument("--hacks", nargs="*", type=Path, default=[], metavar="FILE", help="answers that --optimise wrote")
            sub.add_argument("--honest", nargs="*", type=Path, default=[], metavar="FILE", help="honest texts: JSONL, perhaps compressed")
        else:
            sub.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folders with label.csv and truth.csv")


def _run_numpy(args: argparse.Namespace) -> None:
    from labs.study import annotators, crowds, labelling

    _make_room("--json", args.json, args.json.parent if args.json else None)
    if args.what == "annotators":
        if min(args.honest, args.faulty) < 1 or args.seed < 0:
            raise UserError("--honest and --faulty are at least 1, --seed is not below 0")
        if not 0.0 < args.clarity < 100.0:
            raise UserError("--clarity lies between 0 and 100")
        found = annotators.study(annotators.Plan(args.honest, args.faulty, clarity=args.clarity, seed=args.seed))
        print(annotators.table(found))
    elif args.what == "labelling":
        if args.worlds < 3 or args.seed < 0:
            raise UserError("--worlds is at least 3, --seed is not below 0")
        found = labelling.study(labelling.Plan(args.worlds, seed=args.seed))
        print(labelling.table(found))
    elif args.what == "gaming":
        found = _gaming(args)
    else:
        found = crowds.crowds(args.data)
        print(crowds.table(found))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def _gaming(args: argparse.Namespace) -> dict[str, Any]:
    from labs.study import gaming

    files = list(args.hacks)
    if args.optimise is not None:
        from labs.study.hacked import optimise_all

        optimise_all(args.optimise)
        files += sorted(args.optimise.glob("*.jsonl"))
    if not files and not args.honest:
        raise UserError("nothing to look at", "give --optimise FOLDER, --hacks FILES or --honest FILES")
    found = gaming.study(files, args.honest)
    print(gaming.table(found))
    return found


def run(args: argparse.Namespace) -> None:
    """Run a study, print its table, write its files. Raises UserError for arguments that make no study, before anything is computed."""
    if args.what in NUMPY_STUDIES:
        _run_numpy(args)
        return
    _check(args)
    import torch

    from labs.study import frontier as equal
    from labs.study import looking as eyes
    from labs.study import overoptimisation as goodhart
    from labs.study import report

    torch.set_num_threads(args.threads)
    studies: Mapping[str, Callable[[], dict[str, Any]]] = {
        "overoptimisation": lambda: goodhart.overoptimisation(goodhart.Plan(tuple(args.seeds), args.steps, args.world)),
        "looking": lambda: eyes.looking(eyes.Plan(tuple(args.seeds), steps=args.steps)),
        "frontier": lambda: equal.frontier(equal.Plan(tuple(args.seeds), args.steps, args.world)),
    }
    found = studies[args.what]()
    table = report.markdown(found)
    print(table)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if args.out is not None:
        (args.out / f"{args.what}.md").write_text(table + "\n")
        report.plot(found, args.out / f"{args.what}.png")


def _check(args: argparse.Namespace) -> None:
    problems: list[str] = []
    if args.steps < 4:
        problems.append(f"--steps is {args.steps}, but a curve needs at least 4")
    if args.threads < 1:
        problems.append(f"--threads is {args.threads}, but must be at least 1")
    if len(set(args.seeds)) < len(args.seeds):
        problems.append("--seeds names a seed twice: it would count as two")
    if min(args.seeds) < 0 or getattr(args, "world", 0) < 0:
        problems.append("seeds must not be below 0")
    if problems:
        raise UserError("; ".join(problems))
    _make_room("--json", args.json, args.json.parent if args.json else None)
    _make_room("--out", args.out, args.out)


def _make_room(flag: str, given: Path | None, folder: Path | None) -> None:
    """The folder that a file will go to, made before the work rather than missed after it."""
    if given is None or folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {given} cannot be written: {error.strerror}") from error
    if flag == "--json" and given.is_dir():
        raise UserError(f"--json {given} is a folder", "name a file")
