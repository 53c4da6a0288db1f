"""`python -m slth_compile`."""

from slth_compile.cli import main

main()
