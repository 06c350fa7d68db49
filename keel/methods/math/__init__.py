"""Losses: pure functions of tensors. One file a family; each function cites its equation, and what it returns is per token, per pair or
per sequence, never already averaged: ``reduce`` decides how the parts are counted."""
