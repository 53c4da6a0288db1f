"""The target network: nodes, shapes, checks, folding, evaluation."""
