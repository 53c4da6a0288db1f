"""The backward differential engine: linear forms of (x, d) carried from a node to the input, soundly rounded."""

from slth_compile.certificate.backward.engine import bound_difference_backward as bound_difference_backward
