"""The systems before the proofs: magnitude pruning, lottery tickets, masks found by training scores."""
