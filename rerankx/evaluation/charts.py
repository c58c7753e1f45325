"""Charts as SVG text: plain functions of numbers. `STYLE` holds their colours, which `report` puts on the page.

Each chart is an image to a screen reader: a title and a sentence; the page gives the numbers as text beside it. Series differ in
shape or label, too, not in colour alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "SERIES",
    "STYLE",
    "Line",
    "Point",
    "depth_curves",
    "drawn_span",
    "escaped",
    "gains",
    "marker",
    "quality_over_time",
    "recall_bars",
    "reliability_plot",
    "ticks",
]

Scale = Callable[[float], float]
SERIES = 6
"""How many colours there are; the seventh series has the first one's colour and another shape."""
MOST_BARS = 160
"""So many bars a chart of gains has at most, whatever the number of queries."""

STYLE = """
:root{--ink:#1d2126;--muted:#596069;--paper:#fbfaf7;--line:#dcd8ce;--gain:#0b6b4f;--loss:#a8381c;
--s0:#0f5e9c;--s1:#b4480f;--s2:#5b3c9c;--s3:#0b6b4f;--s4:#9c2458;--s5:#66601a}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e8e6e1;--muted:#a5abb3;--paper:#15181c;--line:#363b42;--gain:#5fcfa3;
--loss:#f0906f;--s0:#6fb1ea;--s1:#f0955a;--s2:#b79cf0;--s3:#5fcfa3;--s4:#ee82b0;--s5:#cbc76a}}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg text{fill:var(--muted)}svg text.ink{fill:var(--ink);font-weight:600}
svg line,svg path{fill:none;stroke:var(--line)}
svg .zero{stroke:var(--muted);stroke-dasharray:5 4}svg .budget{stroke:var(--loss);stroke-dasharray:2 3;stroke-width:1.5}
svg .front{stroke:var(--ink);stroke-width:1.25}svg .faint{opacity:.45}svg path.faint{opacity:.65}
svg .ring{fill:none;stroke:var(--ink);stroke-width:2}
svg .gain{fill:var(--gain);stroke:none}svg .loss{fill:var(--loss);stroke:none}svg .bar{fill:var(--muted);stroke:none}
svg .band{stroke:none;opacity:.16}svg .main{stroke-width:2.5}
svg .halo{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}
""" + "".join(
    f"svg .c{i}{{stroke:var(--s{i})}}svg .f{i}{{fill:var(--s{i});stroke:var(--s{i})}}\n" for i in range(SERIES)
)

# What neither HTML nor XML allows, lone surrogates among it; and what turns the order of letters beyond its own end.
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_BLANK = {0x0B: " ", 0x0C: " "}
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration: how long it takes and what it gains."""

    name: str
    series: int
    x: float
    """Milliseconds, above 0."""
    y: float
    low: float
    high: float
    front: int | None = None
    """Its number on the Pareto front, None if another is as good in all and better in something."""
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """What one backend gains in one mixture with the first stage, by how many candidates are reranked."""

    label: str
    points: Sequence[tuple[float, float, float, float]]
    """(depth, gain, its lower end, its upper end), by depth."""
    main: bool = False
    """Drawn strong, with its interval as a band."""


def escaped(value: object) -> str:
    """Return the text for HTML or XML, elements and attributes alike: no markup is left in it, no character that either forbids.

    A forbidden character becomes U+FFFD. Controls that turn the direction of the text around them are taken out; letters of any
    direction stay.
    """
    text = re.sub("\r\n?", "\n", str(value)).translate(_BLANK)
    text = _TURNING.sub("", _NOT_TEXT.sub("\ufffd", text))
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(letter, entity)
    return text


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers within [low, high], a step of 1, 2, 2.5 or 5 times a power of ten apart; [low] if both are equal.

    Args:
        low: Finite, at most `high`.
        high: Finite.
        most: At least 2; so many ticks there are at most.
    """
    if high - low <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return 1, 2 and 5 times powers of ten within [low, high], both above 0: at most `most`.

    Fewer of a decade where they would be too many; those of `ticks` where the span is too short for two.
    """
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(found) <= most:
            break
    return found[:: -(-len(found) // most)] if len(found) > 1 else ticks(low, high, min(most, 4))


def quality_over_time(
    points: Sequence[Point], *, key: str, unit: str, first: str, budget: float | None = None, width: int = 680
) -> str:
    """Return what each configuration gains over the first stage against its milliseconds, on a logarithmic axis.

    Args:
        points: At least one.
        key: Unique on the page, for the ids of title and description.
        unit: What is gained, such as "nDCG@10".
        first: The first stage's own value, as it is to be read at 0.
        budget: Milliseconds allowed, above 0: a vertical line.
        width: Of the drawing; its letters keep their size.
    """
    times = [point.x for point in points] + ([budget] if budget is not None else [])
    low_x, high_x = min(times) / 1.35, max(times) * 1.35
    low, high = _domain([value for point in points for value in (point.low, point.high)])
    height = 340 if width >= 500 else 300
    x, y = _log(low_x, high_x, 48, width - 14), _linear(low, high, height - 40, 16)
    body = [_grid_y(low, high, y, 48, width - 14), _ticks_x(log_ticks(low_x, high_x, width // 70), x, height - 40)]
    body.append(_text(width - 14, height - 6, "milliseconds per query, p95", "end"))
    body.append(f'<line class="zero" x1="48" x2="{width - 14}" {_both("y", y(0))}/>')
    body.append(_text(width - 16, y(0) - 5, f"first stage {first}", "end", "halo"))
    if budget is not None:
        at = x(budget)
        body.append(f'<line class="budget" {_both("x", at)} y1="16" y2="{height - 40}"/>')
        side = ("end", at - 5) if at > width / 2 else ("start", at + 5)
        clear = height - 48 if y(0) < height / 2 else 27  # of the first stage's line and name
        body.append(_text(side[1], clear, f"budget {_short(budget)} ms", side[0], "halo"))
    whiskers_for_all = len(points) <= 24
    for point in sorted(points, key=lambda one: (one.chosen, one.front is not None)):
        stands_out = point.chosen or point.front is not None
        faint = "" if stands_out else " faint"
        drawn = ""
        if stands_out or whiskers_for_all:
            drawn = _whisker(x(point.x), y(point.low), y(point.high), f"c{point.series % SERIES}")
        drawn += marker(x(point.x), y(point.y), point.series, 5.5 if point.chosen else 4)
        if point.chosen:
            drawn += f'<circle class="ring" cx="{_n(x(point.x))}" cy="{_n(y(point.y))}" r="10.5"/>'
        told = f"{point.name}: {point.y:+.3f} ({point.low:+.3f} to {point.high:+.3f}), {_short(point.x)} ms"
        body.append(f'<g class="point{faint}"><title>{escaped(told)}</title>{drawn}</g>')
    front = sorted((point for point in points if point.front is not None), key=lambda one: (one.x, -one.y))
    rising = [one for i, one in enumerate(front) if all(one.y > other.y for other in front[:i])]
    if len(rising) > 1:
        body.insert(2, f'<path class="front" d="{_path((x(one.x), y(one.y)) for one in rising)}"/>')
    body += [_text(x(one.x) - 9, y(one.y) - 7, str(one.front), "end", "ink halo") for one in front]
    title = f"Gain in {unit} against time"
    told = f"{len(points)} configurations, from {_short(min(times))} to {_short(max(times))} ms."
    if chosen := [point for point in points if point.chosen]:
        told += f" Ringed: {chosen[0].name}, {chosen[0].y:+.3f} at {_short(chosen[0].x)} ms."
    return _svg(width, height, key, title, told, body)


def depth_curves(
    lines: Sequence[Line],
    *,
    key: str,
    name: str,
    unit: str,
    series: int = 0,
    span: tuple[float, float] | None = None,
    width: int = 340,
) -> str:
    """Return what a backend gains over the first stage, by how many candidates it reranks: a line per mixture, from 0.

    Args:
        lines: At least one, each with at least one point.
        key: As in `quality_over_time`.
        name: The backend's.
        unit: What is gained.
        series: Which colour.
        span: Gains that the axis has to hold, so that several charts have the same; its own where None.
        width: As in `quality_over_time`.
    """
    depths = sorted({point[0] for line in lines for point in line.points})
    low, high = _domain(drawn_span(lines) if span is None else span)
    height, right = 250, width - 12 - 7 * max(len(line.label) for line in lines)
    x, y = _linear(0, depths[-1] or 1, 48, right), _linear(low, high, height - 40, 14)
    body = [_grid_y(low, high, y, 48, right), _ticks_x(_apart([0, *depths], x, 22), x, height - 40)]
    body.append(_text(right, height - 6, "candidates reranked", "end"))
    body.append(f'<line class="zero" x1="48" x2="{right}" {_both("y", y(0))}/>')
    colour = series % SERIES
    for line in sorted(lines, key=lambda one: one.main):
        path = _path([(x(0), y(0)), *((x(depth), y(gain)) for depth, gain, _, _ in line.points)])
        if line.main:
            upper = [(x(depth), y(top)) for depth, _, _, top in line.points]
            lower = [(x(depth), y(bottom)) for depth, _, bottom, _ in reversed(line.points)]
            body.append(f'<path class="f{colour} band" d="{_path([(x(0), y(0)), *upper, *lower])}Z"/>')
            body.append(f'<path class="c{colour} main" d="{path}"/>')
            body += [marker(x(depth), y(gain), series, 3) for depth, gain, _, _ in line.points]
        else:
            body.append(f'<path class="c{colour} faint" d="{path}"/>')
    ends = spread([y(line.points[-1][1]) for line in lines], 13, 14, height - 40)
    for line, end in zip(lines, ends, strict=True):
        body.append(_text(right + 5, end + 4, line.label, "start", "ink" if line.main else ""))
    best = max((point[1], point[0], line.label) for line in lines for point in line.points)
    told = f"Largest gain: {best[0]:+.3f} at the first {best[1]:,.0f} candidates, {best[2]}."
    return _svg(width, height, key, f"{name}: gain in {unit} by depth", told, body)


def drawn_span(lines: Iterable[Line]) -> tuple[float, float]:
    """Return the smallest and the largest gain that `depth_curves` draws of these lines."""
    drawn = [value for one in lines for point in one.points for value in (point[1:] if one.main else point[1:2])]
    return min(drawn), max(drawn)


def gains(differences: Sequence[float], *, key: str, unit: str, tie: float = 1e-9, width: int = 680) -> str:
    """Return every query's gain or loss as a bar, the largest gain first.

    From `MOST_BARS` on, a bar is the mean of neighbours: of gains, or of losses, never of both.

    Args:
        differences: One per query, at least one.
        key: As in `quality_over_time`.
        unit: What is gained.
        tie: Up to here it is as good.
        width: As in `quality_over_time`.
    """
    ordered = sorted(differences, reverse=True)
    better = [value for value in ordered if value > tie]
    worse = [value for value in ordered if value < -tie]
    n, height = len(ordered), 230
    low, high = _domain([ordered[0], ordered[-1]])
    x, y = _linear(0, n, 48, width - 14), _linear(low, high, height - 24, 24)
    body = [_grid_y(low, high, y, 48, width - 14)]
    for name, start, part in (("gain", 0, better), ("loss", n - len(worse), worse)):
        if part:
            body.append(f'<path class="{name}" d="{_bars(part, start, -(-n // MOST_BARS), x, y)}"/>')
    body.append(f'<line class="zero" x1="48" x2="{width - 14}" {_both("y", y(0))}/>')
    body.append(_text(48, 14, f"{len(better):,} better", "start", "ink"))
    body.append(_text((48 + width - 14) / 2, 14, f"{n - len(better) - len(worse):,} as good", "middle"))
    body.append(_text(width - 14, 14, f"{len(worse):,} worse", "end", "ink"))
    body.append(_text(width - 14, height - 6, f"queries: {n:,}, by what they gained", "end"))
    told = f"{len(better)} better, {n - len(better) - len(worse)} as good, {len(worse)} worse; "
    told += f"from {ordered[-1]:+.3f} to {ordered[0]:+.3f}."
    return _svg(width, height, key, f"Change in {unit} of each query", told, body)


def reliability_plot(
    bins: Sequence[tuple[float, float, int]], *, key: str, name: str, series: int = 0, width: int = 340
) -> str:
    """Return the share that is relevant against the probability that was told, with the line on which both are equal.

    Args:
        bins: (predicted, observed, count), the first two in [0, 1]; at least one.
        key: As in `quality_over_time`.
        name: The backend's.
        series: Which colour.
        width: As in `quality_over_time`.
    """
    height = width - 60
    x, y = _linear(0, 1, 48, width - 14), _linear(0, 1, height - 40, 12)
    body = [_grid_y(0, 1, y, 48, width - 14), _ticks_x(ticks(0, 1), x, height - 40)]
    body.append(_text(width - 14, height - 6, "probability told", "end"))
    body.append(f'<path class="zero" d="{_path([(x(0), y(0)), (x(1), y(1))])}"/>')
    most = max((count for _, _, count in bins), default=1) or 1
    body.append(f'<path class="c{series % SERIES}" d="{_path((x(p), y(o)) for p, o, _ in bins)}"/>')
    for predicted, observed, count in bins:
        size = 2.5 + 6 * math.sqrt(count / most)
        dot = f'<circle class="f{series % SERIES}" cx="{_n(x(predicted))}" cy="{_n(y(observed))}" r="{_n(size)}"/>'
        told = f"told {predicted:.2f}, relevant {observed:.2f}, {count:,} pairs"
        body.append(f'<g class="point"><title>{escaped(told)}</title>{dot}</g>')
    far = max((abs(predicted - observed) for predicted, observed, _ in bins), default=0.0)
    told = f"{len(bins)} groups of pairs; the farthest from the diagonal is {far:.2f} off. A larger dot is more pairs."
    return _svg(width, height, key, f"{name}: how often what was told is so", told, body)


def recall_bars(recall: Sequence[tuple[int, float]], *, key: str, width: int = 340) -> str:
    """Return the share of relevant documents among the first so many candidates, a bar per depth; shares in [0, 1]."""
    height, step = 8 + 26 * len(recall), width - 48 - 52
    x = _linear(0, 1, 48, 48 + step)
    body = []
    for i, (depth, share) in enumerate(recall):
        top = 8 + 26 * i
        body.append(_text(40, top + 14, f"{depth:,}", "end"))
        body.append(f'<rect class="bar" x="48" y="{top}" width="{_n(x(share) - 48)}" height="18"/>')
        body.append(f'<line x1="{_n(x(share))}" x2="{_n(x(1))}" {_both("y", top + 9)}/>')
        body.append(_text(x(1) + 6, top + 14, f"{share:.0%}", "start", "ink"))
    told = ", ".join(f"{share:.0%} among the first {depth:,}" for depth, share in recall)
    return _svg(width, height, key, "Relevant documents among the candidates", told + ".", body)


def marker(x: float, y: float, series: int, r: float) -> str:
    """Return the mark of a series at a place: its own pair of shape and colour, for up to 36 series."""
    colour, shape = series % SERIES, (series + series // SERIES) % SERIES
    if shape == 0:
        return f'<circle class="f{colour}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"/>'
    corners: Sequence[tuple[float, float]] = (
        ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
        ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        ((0, 1.3), (1.2, -0.9), (-1.2, -0.9)),
        ((-1.5, -0.5), (1.5, -0.5), (1.5, 0.5), (-1.5, 0.5)),
    )[shape - 1]
    return f'<path class="f{colour}" d="{_path((x + a * r, y + b * r) for a, b in corners)}Z"/>'


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the places moved so little that neighbours are `gap` apart, within [low, high] where there is room."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for i, which in enumerate(order):
        moved[which] = max(moved[which], moved[order[i - 1]] + gap if i else low)
    limit = high
    for which in reversed(order):
        moved[which] = min(moved[which], limit)
        limit = moved[which] - gap
    return moved


def _domain(values: Iterable[float]) -> tuple[float, float]:
    """Return an interval that holds all values and 0, with some room, and never empty."""
    held = [0.0, *values]
    low, high = min(held), max(held)
    room = 0.08 * (high - low) or 0.01
    return low - room, high + room


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _log(low: float, high: float, start: float, end: float) -> Scale:
    inner = _linear(math.log(low), math.log(high), start, end)
    return lambda value: inner(math.log(value))


def _bars(values: Sequence[float], start: int, each: int, x: Scale, y: Scale) -> str:
    """Return the outline of bars of `each` values, the first one at query `start`, with gaps where they are wide enough."""
    parts = []
    for at in range(0, len(values), each):
        some = values[at : at + each]
        left, right = x(start + at), x(start + at + len(some))
        gap = 1 if right - left > 4 else 0
        mean = y(math.fsum(some) / len(some))
        parts.append(f"M{_n(left)} {_n(y(0))}V{_n(mean)}H{_n(right - gap)}V{_n(y(0))}Z")
    return "".join(parts)


def _whisker(x: float, low: float, high: float, kind: str) -> str:
    ends = (f"M{_n(x - 3)} {_n(end)}H{_n(x + 3)}" for end in (low, high))
    return f'<path class="{kind}" d="M{_n(x)} {_n(low)}V{_n(high)}{"".join(ends)}"/>'


def _grid_y(low: float, high: float, y: Scale, left: float, right: float) -> str:
    marks = ticks(low, high)
    digits = max((len(f"{mark:.6f}".rstrip("0").partition(".")[2]) for mark in marks), default=0)
    lines = (f'<line x1="{_n(left)}" x2="{_n(right)}" {_both("y", y(mark))}/>' for mark in marks)
    return "".join(lines) + "".join(_text(left - 6, y(mark) + 4, f"{mark:.{digits}f}", "end") for mark in marks)


def _ticks_x(marks: Sequence[float], x: Scale, bottom: float) -> str:
    return "".join(
        f'<line {_both("x", x(mark))} y1="{_n(bottom)}" y2="{_n(bottom + 4)}"/>'
        + _text(x(mark), bottom + 18, f"{_short(mark)}", "middle")
        for mark in marks
    )


def _apart(marks: Sequence[float], x: Scale, gap: float) -> list[float]:
    """Return those marks that stand at least `gap` from the one before, always the last one."""
    kept: list[float] = []
    for mark in reversed(marks):
        if not kept or x(kept[-1]) - x(mark) >= gap:
            kept.append(mark)
    return kept[::-1]


def _path(places: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in places)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escaped(text)}</text>'


def _both(axis: str, value: float) -> str:
    return f'{axis}1="{_n(value)}" {axis}2="{_n(value)}"'


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _svg(width: float, height: float, key: str, title: str, told: str, body: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-labelledby="{key}-title {key}-told">'
        f'<title id="{key}-title">{escaped(title)}</title><desc id="{key}-told">{escaped(told)}</desc>'
        f"{''.join(body)}</svg>\n"
    )


def _short(value: float) -> str:
    """Return a number without digits that nobody reads: 12,346 and 0.1235."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
