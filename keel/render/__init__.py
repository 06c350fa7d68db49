"""Messages <-> tokens and pixels, loss masks. Start at ``renderer.Renderer``."""
