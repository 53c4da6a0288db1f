"""How a weighted layer of the target becomes random layers."""
