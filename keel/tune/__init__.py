"""Which settings train best: many short runs, few long ones, and a comparison that says when it cannot tell."""
