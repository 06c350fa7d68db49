"""Failures of a finished run: found, grouped, shown beside the other models' answers, and sent to people."""
