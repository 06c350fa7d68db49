"""Credit: from rewards to an advantage for every sampled token. Pure functions of tensors (``estimators``, ``scaling``) and
their composition over groups of rollouts (``assign``)."""
