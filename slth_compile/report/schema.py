"""The published JSON schema of `certificate.json`."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any


def certificate_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `certificate.json`, read from the package."""
    text = (
        importlib.resources.files("slth_compile.report").joinpath("certificate.schema.json").read_text(encoding="utf-8")
    )
    return json.loads(text)
