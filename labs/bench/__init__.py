"""Keel against other trainers on the same work, and its own algorithms against one another."""
