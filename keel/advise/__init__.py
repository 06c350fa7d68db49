"""Advice: what the data are, what the machine can do, which way to take; a race on a small budget where that is not enough."""
