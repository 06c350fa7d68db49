"""Experiments on a tiny model with a gold reward that is known: what optimising a learned one does, and what each
algorithm pays in KL."""
