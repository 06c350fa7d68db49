"""A model that goes out: what is written, what must hold of it, and what is told to whoever takes it."""
