"""Credit: from rewards to an advantage for every sampled token. Pure functions of tensors (``group``, ``gae``, ``whiten``, ``shaping``) and
their composition over groups of rollouts (``credit``)."""
