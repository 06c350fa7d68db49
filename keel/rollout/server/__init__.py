"""Rollouts drawn in other processes, beside the training: an engine that serves over HTTP, and the sampler that asks it."""
