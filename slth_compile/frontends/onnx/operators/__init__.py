"""Rules for ONNX operators, by kind."""
