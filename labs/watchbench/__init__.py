"""How good the rules of the watch are: many small runs, healthy and sick ones, and what the rules say of them."""
