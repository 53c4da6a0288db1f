"""The backward differential engine: linear forms of (x, d) carried from a node to the input, soundly rounded."""
