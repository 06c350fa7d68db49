"""Answers criticised and revised by a constitution, and pairs made of its scores."""
