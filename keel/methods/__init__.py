"""Algorithms by name, and their settings: compositions of parts that are made elsewhere (``math``, ``credit``, ``objectives``).

`rl` is the table of RL with its settings resolved and the credit of a batch; `rl_parts`, `rl_config` and `rl_checks` are what its rows
are made of, the overrides by field, and what is refused. `preference` is the table of direct preference losses, `offline` that of losses
on logged rewards. What the online loop calls is imported from here.
"""

from keel.methods.credit.assign import rollout_units
from keel.methods.credit.measures import group_metrics
from keel.methods.rl import ALGORITHMS, AlgorithmConfig, Credited, credit, resolve
from keel.methods.rl_parts import KL, POLICY_LOSSES, Algorithm, Control, Critic, Entropy, OldKL, Overlong, PolicyLossRow, ReferenceRule

__all__ = [
    "ALGORITHMS",
    "KL",
    "POLICY_LOSSES",
    "Algorithm",
    "AlgorithmConfig",
    "Control",
    "Credited",
    "Critic",
    "Entropy",
    "OldKL",
    "Overlong",
    "PolicyLossRow",
    "ReferenceRule",
    "credit",
    "group_metrics",
    "resolve",
    "rollout_units",
]
