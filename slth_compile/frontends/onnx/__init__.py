"""ONNX files as graphs."""

from __future__ import annotations

from slth_compile.frontends.onnx.importer import import_onnx

__all__ = ["import_onnx"]
