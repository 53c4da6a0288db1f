"""The random network: words, exact numbers, shapes and addresses."""
