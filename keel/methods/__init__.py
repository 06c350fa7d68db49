"""Algorithms by name, and their settings: compositions of parts that are made elsewhere (``math``, ``credit``, ``objectives``).

`rl` is the table of RL, and settings resolved into a row; `rl_parts` is what its rows are made of, with the credit of a batch; `rl_config`
and `rl_checks` are the overrides by field, and what is refused. `preference` is the table of direct preference losses, `offline` that of
losses on logged rewards. What the online loop calls is imported from here.
"""

from keel.methods.credit.measures import group_metrics
from keel.methods.credit.units import rollout_units
from keel.methods.math.policy import POLICY_LOSSES, PolicyLoss
from keel.methods.rl import ALGORITHMS, AlgorithmConfig, resolve
from keel.methods.rl_parts import KL, Algorithm, Control, Credited, Critic, Entropy, OldKL, Overlong, ReferenceRule, credit

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
    "PolicyLoss",
    "ReferenceRule",
    "credit",
    "group_metrics",
    "resolve",
    "rollout_units",
]
