"""The solver: one random subset-sum problem for every weight."""
