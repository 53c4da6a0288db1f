"""SVG of a Matplotlib figure made fit for a page: colours of its theme, no identifiers that clash, no links."""

from __future__ import annotations

import io
import re
import warnings
from html import escape

import matplotlib
from matplotlib.figure import Figure

# Matplotlib draws in these stand-ins; a style sheet may set the variable, otherwise the second colour is used.
# Blue, orange and green are Okabe & Ito's, which colour-blind readers tell apart.
INK, MUTED, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
BLUE, ORANGE, GREEN = "#010207", "#010208", "#010209"
_THEME = {
    INK: ("--ink", "#1b1f24"),
    MUTED: ("--muted", "#667085"),
    GRID: ("--line", "#d9dde3"),
    PAPER: ("--paper", "#ffffff"),
    BLUE: ("--blue", "#0072b2"),
    ORANGE: ("--orange", "#d55e00"),
    GREEN: ("--green", "#009e73"),
}
_FONT = "var(--font, system-ui, sans-serif)"


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as an `<svg>` element to put into a page.

    Args:
        figure: What to show, drawn in the colours of this module.
        name: Prefix of the identifiers inside; unique within the page.
        description: What a reader who cannot see it should know.

    Returns:
        The element: text stays text, the background is transparent, the width follows the page.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Names may hold characters Matplotlib's own font lacks; the reader's browser has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name})
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    # Only tags are rewritten: the text between them may be anything a model's author called a layer.
    text = re.sub(r"<[^>]+>", lambda tag: _rewrite(tag[0], name, used), text)
    width, height = (round(72 * float(length)) for length in figure.get_size_inches())
    opening = (
        f'<svg class="plot" role="img" aria-label="{escape(description)}" viewBox="0 0 {width} {height}" '
        'stroke-linejoin="round">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1).strip()


def _rewrite(tag: str, name: str, used: set[str]) -> str:
    """A tag in the page's colours and font; identifiers get a prefix where they are used and vanish elsewhere."""
    for stand_in, (variable, colour) in _THEME.items():
        tag = tag.replace(stand_in, f"var({variable}, {colour})")
    tag = re.sub(r"(font: [^;\"]*?px) [^;\"]*", rf"\1 {_FONT}", tag)
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
