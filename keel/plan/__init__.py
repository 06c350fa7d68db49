"""Memory and time of a run before it starts: formulas, one real micro-batch that corrects them, and what to change so that it fits."""
