"""Principles in a file, and how well an answer keeps them."""
