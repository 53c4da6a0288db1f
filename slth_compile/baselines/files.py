"""A finished study as files: tables, pictures, and the masks they speak of."""

from __future__ import annotations

from collections.abc import Mapping

from slth_compile.baselines import plot, table
from slth_compile.baselines.records import Records
from slth_compile.baselines.study import Study


def write(study: Study, records: Records, title: str, further: Mapping[str, bytes] | None = None) -> None:
    """`OUT/`: `results.json`, `results.csv`, `results.md`, `plot.svg`, `plot.png`; `settings.json` and `networks/`.

    Args:
        study: What was found.
        records: Where its networks are kept.
        title: Of the picture.
        further: More files, by path within `OUT/`.
    """
    records.finish(
        {
            "results.json": table.json_text(study).encode(),
            "results.csv": table.study_csv(study).encode(),
            "results.md": table.markdown(study).encode(),
            "plot.svg": plot.render(study, title, "svg"),
            "plot.png": plot.render(study, title, "png"),
        }
        | dict(further or {})
    )
