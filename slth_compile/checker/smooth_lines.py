"""Lines of smooth activations.

The lines of `a(y)` are parallel to the chord. An interval is cut into parts; with c and r the centre and the radius of
one and `m <= a' <= M` on it, `a(y) - s y` is within `max(M - s, s - m) r` of `a(c) - s c` there, by the mean value
theorem. Those of the change `h = a(y + d) - a(y)` are the chords of `max(m d, M d)` and of `min(m d, M d)`, which are
convex and concave in d, with `m <= a' <= M` from y to `y + d`; or constants, where the enclosure of h gains by it.
"""

from __future__ import annotations

import itertools

import numpy as np

from slth_compile.checker import smooth
from slth_compile.checker.arithmetic import Interval, down, up
from slth_compile.checker.graph import Node
from slth_compile.checker.kinked_lines import around, chord
from slth_compile.checker.lines import Lines, Planes, flat_planes

_PARTS = 8
_GAIN = 2.0**-20  # of the largest |a' d|: less is no reason to leave a chord, so that ties are no matter of rounding
_SETTLED = 2.0**-90  # a hard swish at its vertex, whose place is within 2^-48


def smooth_lines(node: Node, y: Interval, d: Interval | None) -> tuple[Lines, Planes | None]:
    """Lines of `a(y)` and planes of `h(y, d)`, without tilts; None where d is.

    Args:
        node: One of `smooth.OPERATIONS`.
        y: What it is applied to, of the node's shape.
        d: The ticket's y less the target's.
    """
    of_y = _hard_swish(node, y) if node.op == "hard_swish" else _of_value(node, y)
    return of_y, None if d is None else flat_planes(_of_change(node, y, d))


def _of_value(node: Node, y: Interval) -> Lines:
    first, last = (_at(node, end) for end in y)
    width = y.upper - y.lower
    slope = chord(first.lower, last.lower, y, smooth.slopes(node.op, node.fields, y))
    slope = np.where(np.isfinite(width), slope, 0.0)
    inner = [np.minimum(y.lower + width * (k / _PARTS), y.upper) for k in range(1, _PARTS)]
    parts = [Interval(*ends) for ends in itertools.pairwise((y.lower, *inner, y.upper))]
    centres = [np.clip(0.5 * part.lower + 0.5 * part.upper, *part) for part in parts]
    slack = []
    for part, centre in zip(parts, centres, strict=True):
        radius = up(np.maximum(part.upper - centre, centre - part.lower))
        steep = smooth.slopes(node.op, node.fields, part)
        bend = up(np.maximum(steep.upper - slope, slope - steep.lower))
        slack.append(up(np.maximum(bend, 0.0) * radius))
    found = around(centres, [_at(node, centre) for centre in centres], slope, slope, slack)
    known = np.isfinite(found.above) & np.isfinite(found.below)
    return _or_constants(found, smooth.value(node.op, node.fields, y), known, known)


def _of_change(node: Node, y: Interval, d: Interval) -> Lines:
    z = Interval(down(y.lower + d.lower), up(y.upper + d.upper))
    reached = Interval(np.minimum(y.lower, z.lower), np.maximum(y.upper, z.upper))
    steep = smooth.slopes(node.op, node.fields, reached)
    values = []
    for end in d:
        ends = steep.lower * end, steep.upper * end
        values.append(Interval(down(np.minimum(*ends)), up(np.maximum(*ends))))
    above = chord(values[0].upper, values[1].upper, d, steep)
    below = chord(values[0].lower, values[1].lower, d, steep)
    found = around([*d], values, above, below, [np.zeros_like(end) for end in d])
    image = smooth.change(node.op, node.fields, y, d)
    middle = 0.5 * d.lower + 0.5 * d.upper
    gain = _GAIN * np.maximum(np.abs(steep.lower), np.abs(steep.upper)) * np.maximum(np.abs(d.lower), np.abs(d.upper))
    # What is not finite is neither.
    top = found.above + above * middle - gain <= image.upper
    bottom = found.below + below * middle + gain >= image.lower
    return _or_constants(found, image, top, bottom)


def _hard_swish(node: Node, y: Interval) -> Lines:
    """Between -3 and 3, `y (y + 3) / 6 - s y` is a parabola, lowest at `3 s - 3/2`; outside it is a line."""
    slopes = smooth.slopes(node.op, node.fields, y)
    slope = chord(_at(node, y.lower).lower, _at(node, y.upper).lower, y, slopes)
    lowest = np.clip(3 * slope - 1.5, -3, 3)
    points = [np.clip(v, *y) for v in (y.lower, y.upper, -3.0, 3.0, lowest)]
    nothing = np.zeros_like(slope)
    found = around(points, [_at(node, point) for point in points], slope, slope, [nothing] * len(points))
    return found._replace(below=down(found.below - _SETTLED))


def _at(node: Node, point: np.ndarray) -> Interval:
    return smooth.value(node.op, node.fields, Interval(point, point))


def _or_constants(lines: Lines, image: Interval, top: np.ndarray, bottom: np.ndarray) -> Lines:
    """The lines where `top`, for the one above, and `bottom` hold; the ends of the image elsewhere."""
    return Lines(
        np.where(top, lines.above_slope, 0.0),
        np.where(top, lines.above, image.upper),
        np.where(bottom, lines.below_slope, 0.0),
        np.where(bottom, lines.below, image.lower),
    )
