"""Tickets in the formats that other programs read: ONNX, StableHLO, and variables of the target's own model."""
