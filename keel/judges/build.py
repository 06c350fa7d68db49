"""From settings to judges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.judges.ask import Judge
from keel.judges.config import EndpointConfig, JudgesFile, LocalConfig, PanelConfig, RewardModelConfig, ScriptedConfig
from keel.judges.panel import PanelJudge
from keel.judges.scripted import ScriptedJudge

RewardModelJudge = Callable[[str, RewardModelConfig], Judge]  # who may load reward models makes them


def read_judges(path: str) -> JudgesFile:
    """The judges of a file. Raises ConfigError."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file of judges", f"write one like {JudgesFile.SAMPLE}, or give --judges FILE")
    return load(JudgesFile, Path(path))


def make_judge(name: str, judges: JudgesFile, reward_model: RewardModelJudge | None = None) -> Judge:
    """The judge of that name, with whatever it needs loaded. Raises UserError."""
    match config := judges.named(name):
        case ScriptedConfig():
            return ScriptedJudge(name, config)
        case EndpointConfig():
            from keel.judges.endpoint import EndpointJudge  # asyncio and httpx, where they are needed

            return EndpointJudge(name, config)
        case LocalConfig():
            from keel.judges.local import load_local  # torch, where it is needed

            return load_local(name, config)
        case RewardModelConfig():
            if reward_model is None:
                raise ConfigError(f"judge {name}: a reward model cannot judge here", "name the reward model itself as the reward")
            return reward_model(name, config)
        case PanelConfig():
            members = [make_judge(m, judges, reward_model) for m in config.members]
            if len({m.identity for m in members}) < len(members):
                raise ConfigError(f"judge {name}: two members are the same judge", "its voice would count twice")
            return PanelJudge(name, tuple(members), config.quorum, config.family)
