"""The pruned random network: masks, closed form, literal form, files."""
