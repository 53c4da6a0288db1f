"""Models and checkpoints to graphs."""
