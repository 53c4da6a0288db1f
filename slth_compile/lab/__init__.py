"""The laboratory: how many random candidates a weight needs, measured."""
