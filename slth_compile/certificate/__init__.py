"""Certified bounds on the difference of target and ticket."""
