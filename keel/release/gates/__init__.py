"""Gates: what must hold before a model goes out. Each passes, fails, or cannot tell; a model goes out where all pass."""
