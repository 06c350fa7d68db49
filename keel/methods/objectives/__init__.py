"""Objectives: which loss, counted how, over which part of a model's outputs. Each implements ``types.Objective`` and holds no state."""
