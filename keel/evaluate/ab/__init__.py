"""Is B better than A? Planned looks with group sequential bounds, or always-valid looks without a plan; three answers, one of them open."""
