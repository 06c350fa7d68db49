"""The dashboard: a process of its own that reads run folders and writes nothing. No torch, no models."""
