"""Which query learns which target: groups, repeats, cost, assignment."""
