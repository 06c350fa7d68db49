"""The trackers that Keel knows: how a path begins in each, and how a step gets there."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keel.core.errors import UserError
from keel.core.hashing import stable_hash
from keel.runs.config import TrackingConfig
from keel.runs.directory import RunDir
from keel.runs.trackers.follow import Following, Open, Tracker, TrackerSink

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Path:
    """A path as two functions."""

    send: Callable[[int, Mapping[str, float]], None]
    end: Callable[[], None]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.send(step, metrics)

    def close(self) -> None:
        self.end()


def _apart(call: Callable[[], Any]) -> Any:
    """What a tracker says of itself goes to standard error: standard output is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        return call()


def name_of(run: RunDir, rollback: int) -> str:
    """A run's name in a tracker; each rollback has one of its own."""
    return run.path.name + (f" (after rollback {rollback})" if rollback else "")


def id_of(run: RunDir, rollback: int) -> str:
    """Sixteen characters, the same after each start of the same run."""
    first_start = run.manifest["starts"][0]["at"]
    return f"{stable_hash(str(run.path.resolve()), first_start, *((rollback,) if rollback else ())):016x}"


def tensorboard(run: RunDir, config: TrackingConfig) -> Open:
    """Files in ``tensorboard/``. Steps after the one that the run goes on from are purged."""

    def begin(rollback: int, sent: int) -> Tracker:
        writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(run.path / "tensorboard"), purge_step=sent + 1)

        def send(step: int, metrics: Mapping[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        return Path(send, writer.close)

    return begin


def wandb(run: RunDir, config: TrackingConfig) -> Open:
    """Weights & Biases. It drops whatever comes with a smaller step than the last, so a rollback begins another run of the same group."""

    def begin(rollback: int, sent: int) -> Tracker:
        given = {"project": config.wandb_project, "mode": config.wandb_mode, "group": run.path.name, "config": run.manifest["config"]}
        own = {"name": name_of(run, rollback), "id": id_of(run, rollback), "resume": "allow", "dir": str(run.path)}
        opened: Any = importlib.import_module("wandb").init(**given, **own)
        return Path(lambda step, metrics: opened.log(dict(metrics), step=step), opened.finish)

    return begin


def mlflow(run: RunDir, config: TrackingConfig) -> Open:
    """MLflow, the whole of it or ``mlflow-skinny``. It keeps every value of a step, so a rollback begins another run of the experiment.
    Where no server is named, files are kept; its newer versions refuse that unless they are told."""

    def begin(rollback: int, sent: int) -> Tracker:
        if not config.mlflow_uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        client: Any = importlib.import_module("mlflow").MlflowClient(config.mlflow_uri or (run.path / "mlruns").resolve().as_uri())
        entities: Any = importlib.import_module("mlflow.entities")
        found = client.get_experiment_by_name(config.mlflow_experiment)
        experiment = found.experiment_id if found is not None else client.create_experiment(config.mlflow_experiment)
        mark = id_of(run, rollback)
        there = client.search_runs([experiment], f"tags.`keel.run` = '{mark}'", max_results=1)
        if there:
            opened: str = there[0].info.run_id
            client.update_run(opened, status="RUNNING")
        else:
            tags = {"keel.run": mark, "keel.run_dir": str(run.path)}
            opened = client.create_run(experiment, tags=tags, run_name=name_of(run, rollback)).info.run_id

        def send(step: int, metrics: Mapping[str, float]) -> None:
            rows = [entities.Metric(_plain_name(name), value, 0, step) for name, value in metrics.items()]
            for first in range(0, len(rows), 500):  # a server takes 1000 at once
                client.log_batch(opened, metrics=rows[first : first + 500])

        return Path(send, lambda: client.set_terminated(opened))

    return begin


def trackio(run: RunDir, config: TrackingConfig) -> Open:
    """Trackio. A rollback begins another run of the project."""

    def begin(rollback: int, sent: int) -> Tracker:
        name = f"{name_of(run, rollback)} {id_of(run, rollback)[:6]}"  # a name is all that it knows a run by
        module: Any = importlib.import_module("trackio")
        given = {"project": config.trackio_project, "config": run.manifest["config"]}
        opened: Any = _apart(lambda: module.init(**given, name=name, resume="allow"))
        return Path(lambda step, metrics: opened.log(dict(metrics), step=step), lambda: _apart(opened.finish))

    return begin


def swanlab(run: RunDir, config: TrackingConfig) -> Open:
    """SwanLab. It takes no value for a step that it has, so a rollback begins another experiment; and none that is not finite: those are
    counted, and told when the path ends."""

    def begin(rollback: int, sent: int) -> Tracker:
        module: Any = importlib.import_module("swanlab")
        given = {"project": config.swanlab_project, "mode": config.swanlab_mode, "logdir": str(run.path / "swanlab")}
        again = {"id": id_of(run, rollback), "resume": "allow"} if config.swanlab_mode == "cloud" else {}
        opened: Any = _apart(lambda: module.init(**given, **again, experiment_name=name_of(run, rollback), config=run.manifest["config"]))

        left_out: Counter[str] = Counter()

        def send(step: int, metrics: Mapping[str, float]) -> None:
            opened.log({name: value for name, value in metrics.items() if math.isfinite(value)}, step=step)
            left_out.update(name for name, value in metrics.items() if not math.isfinite(value))

        def end() -> None:
            _apart(opened.finish)
            if left_out:
                which = ", ".join(f"{name} {n}" for name, n in left_out.most_common())
                log.warning("tracker swanlab takes no NaN and no infinity: %d values left out (%s)", left_out.total(), which)
                left_out.clear()

        return Path(send, end)

    return begin


def _plain_name(name: str) -> str:
    """MLflow's names are letters, digits and ``_-. /:``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /:") else "_" for c in name)


@dataclass(frozen=True, slots=True)
class Kind:
    """A tracker: the module that must be there, how a path is opened, and whether it can drop steps. ``wanted``: as the
    settings say."""

    module: str
    package: str
    wanted: Callable[[TrackingConfig], bool]
    open: Callable[[RunDir, TrackingConfig], Open]
    forgets: bool = False


KINDS: Mapping[str, Kind] = {
    "tensorboard": Kind("tensorboard", '"keel-align[tensorboard]"', lambda c: c.tensorboard, tensorboard, forgets=True),
    "wandb": Kind("wandb", '"keel-align[wandb]"', lambda c: c.wandb, wandb),
    "mlflow": Kind("mlflow", '"keel-align[mlflow]"', lambda c: c.mlflow, mlflow),
    "trackio": Kind("trackio", "trackio", lambda c: c.trackio, trackio),
    "swanlab": Kind("swanlab", "swanlab", lambda c: c.swanlab, swanlab),
}


def tracker_sinks(run: RunDir, config: TrackingConfig) -> list[TrackerSink]:
    """The trackers that the settings ask for. Raises UserError when one is not installed."""
    made: list[TrackerSink] = []
    for name, kind in KINDS.items():
        if not kind.wanted(config):
            continue
        if importlib.util.find_spec(kind.module) is None:
            raise UserError(f"tracking.{name} is on, but {kind.module} is not installed", f"pip install {kind.package}")
        made.append(TrackerSink(Following(name, run.path, kind.open(run, config), kind.forgets)))
    return made
