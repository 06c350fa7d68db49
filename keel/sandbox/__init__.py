"""A room with nothing in it, for code that strangers or models wrote: no network, no files, no processes, limits of time and memory."""
