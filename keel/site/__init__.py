"""What every server of pages has: the guard before it, its socket, the language of a page, vendored scripts and the common style."""
