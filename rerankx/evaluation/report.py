"""`report`: an advice as one HTML page that needs nothing else: no script, no font, no picture, no network."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rerankx.evaluation import charts
from rerankx.evaluation.charts import Line, Point, escaped

__all__ = ["report"]

Plain = Mapping[str, Any]
_DECISIONS = {"rerank": "Rerank", "skip": "Skip reranking", "inconclusive": "Inconclusive"}
_SIGNS = {"rerank": "↑", "skip": "→", "inconclusive": "?"}
_TIE = 1e-9
_WIDE, _NARROW = 680, 330
# Edges of the table beside the bars of all queries: changes between one and the next are one row.
_CHANGES = (0.5, 0.2, 0.05, _TIE, -_TIE, -0.05, -0.2, -0.5)

_STYLE = """
:root{color-scheme:light dark;--panel:#f2f0e9;--rerank:#0b6b4f;--skip:#38507f;--inconclusive:#855000}
@media screen and (prefers-color-scheme:dark){:root{--panel:#1e2227;--rerank:#5fcfa3;--skip:#9db8ee;--inconclusive:#e8b45e}}
*{box-sizing:border-box}html{scroll-behavior:smooth;scroll-padding-top:1rem;-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;
overflow-wrap:anywhere}
header,main,footer{max-width:50rem;margin:0 auto;padding:0 1.25rem}
h1,h2,.lead{font-family:Charter,"Iowan Old Style","Palatino Linotype",Palatino,Georgia,serif;text-wrap:balance}
h1{font-size:clamp(2.5rem,9vw,4rem);line-height:1.05;letter-spacing:-.02em;margin:.15em 0 .1em;font-weight:600}
h2{font-size:1.5rem;line-height:1.2;margin:0 0 .5rem;font-weight:600}h3{font-size:1rem;margin:0;font-weight:600}
p{margin:.5rem 0}a{color:inherit;text-decoration-thickness:1px;text-underline-offset:.2em}
a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--s0);outline-offset:2px;border-radius:2px}
.skip-link{position:absolute;left:-99rem}.skip-link:focus{left:1rem;top:.5rem;background:var(--paper);padding:.5rem;z-index:3}
header{padding-top:2.5rem;color:var(--muted);font-size:.9rem}header p{margin:0}
.rerank h1{color:var(--rerank)}.skip h1{color:var(--skip)}.inconclusive h1{color:var(--inconclusive)}
h1 span{font-family:system-ui,sans-serif;font-weight:400;font-size:.75em;margin-right:.25em}
.lead{font-size:1.3rem;line-height:1.4;margin:.25rem 0 1.5rem;text-wrap:pretty}
.figures{display:grid;grid-template-columns:repeat(3,1fr);gap:1.25rem 1.75rem;margin:0;padding:1.1rem 0;
border:solid var(--line);border-width:1px 0}
.figures div{display:flex;flex-direction:column-reverse;justify-content:flex-end}.figures dd{margin:0}
.figures .value{font-size:1.45rem;line-height:1.2;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.figures.four{grid-template-columns:repeat(4,1fr)}
@media (max-width:36rem){.figures,.figures.four{grid-template-columns:1fr 1fr}.figures .value{font-size:1.2rem}}
.figures dt{font-size:.85rem;line-height:1.35;margin-top:.2rem}.note,figcaption,caption{color:var(--muted);font-size:.85rem}
.remarks{padding-left:1.1rem;margin:1.1rem 0}.remarks li{margin:.35rem 0}
nav ul,.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.9rem}nav{margin:1.1rem 0 0}
nav a{display:inline-block;padding:.15rem 0}
section{margin:3.25rem 0 0}figure{margin:1.1rem 0}figcaption{margin-top:.5rem}
.legend li{display:flex;align-items:center;gap:.4rem}svg.key{width:1.1rem;flex:none}
.narrow{display:none}@media screen and (max-width:36rem){.wide{display:none}.narrow{display:block}}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(18rem,100%),1fr));gap:1.5rem}.panels>*{max-width:24rem}
.panels h3{margin-bottom:.35rem}
.scroll{overflow:auto;max-height:min(38rem,85vh);margin:1rem 0;border:solid var(--line);border-width:1px 0}
table{border-collapse:collapse;width:100%;font-size:.875rem;line-height:1.4;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.4rem 0}th,td{text-align:left;vertical-align:top;padding:.4rem .9rem .4rem 0;
border-bottom:1px solid var(--line);overflow-wrap:normal}
thead th{position:sticky;top:0;background:var(--paper);font-weight:600;z-index:1;border:0;box-shadow:inset 0 -1px var(--muted)}
tbody th{font-weight:400;min-width:9rem;overflow-wrap:anywhere}.n{text-align:right;white-space:nowrap}
tr.dominated>*{color:var(--muted)}tr.chosen>*{background:var(--panel);font-weight:600}tbody tr:last-child>*{border-bottom:0}
details{border-top:1px solid var(--line);padding:.6rem 0}details:last-of-type{border-bottom:1px solid var(--line)}
summary{cursor:pointer}summary h3{display:inline}.change{font-variant-numeric:tabular-nums;color:var(--muted);white-space:nowrap}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem;margin-top:.75rem}
.sides h4{font-size:.85rem;margin:0;color:var(--muted);font-weight:600}
.sides ol{margin:.4rem 0 0;padding-left:1.35rem;font-size:.875rem;line-height:1.45}.sides li{margin:0 0 .75rem}
.sides p{margin:.1rem 0 0}.grade{font-weight:600}.yes{color:var(--gain)}.no,.unjudged{color:var(--muted)}
#all .n .note{display:block}@media (max-width:36rem){.n .note{display:block}.sides{grid-template-columns:1fr}}
pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--panel);padding:.8rem 1rem;margin:.6rem 0;
overflow:auto;max-height:40rem;overflow-wrap:normal}
footer{margin-top:3.25rem;padding-bottom:3rem;color:var(--muted);font-size:.85rem}
@media print{:root{--paper:#fff}body{font-size:10.5pt}header,main,footer{max-width:none;padding:0}nav,.skip-link{display:none}
section{margin-top:1.6rem}.scroll,pre{overflow:visible;max-height:none}pre{white-space:pre-wrap}thead th{position:static}
figure,tr,.figures,.panels>*,.sides li{break-inside:avoid}h2,h3,h4,summary{break-after:avoid}
details::details-content{content-visibility:visible;height:auto}}
"""


def report(advice: Plain) -> str:
    """Return the advice as an HTML page of its own: nothing is loaded from anywhere, and nothing in it runs.

        Path("report.html").write_text(report(advice.to_dict()), encoding="utf-8")

    It holds texts of the worst regressions, at most five queries with ten documents each; whoever gets the page can read them.
    Texts are shown as they are, never as markup.

    Args:
        advice: What `Advice.to_dict` returns, or the same read from its JSON file.

    Raises:
        ValueError: It is not such an advice.
    """
    if advice.get("rerankx") != "advice-1":
        raise ValueError(
            f"advice has rerankx={advice.get('rerankx')!r}: expected 'advice-1'; pass what Advice.to_dict() returns"
        )
    decision = advice["decision"]
    if decision not in _DECISIONS:
        raise ValueError(f"the decision is {decision!r}: expected one of {', '.join(map(repr, _DECISIONS))}")
    sections = [section for part in _PARTS if (section := part(advice))]
    title = f"{_DECISIONS[decision]}: {_cut(advice['dataset'], 80)} behind {_cut(advice['first_stage'] or 'its first stage', 80)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(title)}</title>\n<style>{charts.STYLE}{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip-link" href="#decision">Skip to the decision</a>\n'
        f"<header><p>{_about(advice)}</p></header>\n"
        f'<main class="{decision}">\n{_decision(advice, sections)}\n'
        + "\n".join(html for _, _, html in sections)
        + f"\n</main>\n<footer><p>Made by rerankx {escaped(_cut(advice['version'], 40))}. This page loads nothing, runs "
        "nothing, and sends nothing anywhere.</p></footer>\n</body>\n</html>\n"
    )


Section = tuple[str, str, str]
"""Its id, its heading, and all of it as HTML."""


def _section(key: str, heading: str, *parts: str) -> Section:
    inner = "\n".join(part for part in parts if part)
    return (
        key,
        heading,
        f'<section id="{key}" aria-labelledby="{key}-h">\n<h2 id="{key}-h">{heading}</h2>\n{inner}\n</section>',
    )


def _about(advice: Plain) -> str:
    stage = advice["first_stage"]
    groups = advice["groups"]
    parts = [
        f"Should <bdi>{escaped(_cut(advice['dataset'], 120))}</bdi> be reranked"
        + (f" behind <bdi>{escaped(_cut(stage, 120))}</bdi>?" if stage else "?"),
        _counted(advice["queries"], "query", "queries")
        + (f" in {groups:,} groups that share documents" if groups < advice["queries"] else ""),
        f"up to {_counted(advice['candidates'], 'candidate')}",
        _measure(advice),
    ]
    return " · ".join(parts)


def _decision(advice: Plain, sections: Sequence[Section]) -> str:
    decision = advice["decision"]
    word = _DECISIONS[decision]
    # The sentence is made to be read by itself, and says the word again.
    reason = re.sub(
        rf"^({word}|{decision}|do not rerank)(\s*[:.,]\s*|\s+(?=with\b))",
        "",
        str(advice["reason"]),
        flags=re.IGNORECASE,
    )
    if not any(reason.startswith(str(one["name"])) for one in advice["configurations"]):
        reason = reason[:1].upper() + reason[1:]
    rows = _figures(advice)
    figures = "".join(
        f'<div><dt>{name}{f"<br><span class=note>{note}</span>" if note else ""}</dt><dd class="value">{value}</dd></div>'
        for name, value, note in rows
    )
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in sections)
    return (
        f'<div id="decision" tabindex="-1">\n<h1><span aria-hidden="true">{_SIGNS[decision]}</span>{word}</h1>\n'
        f'<p class="lead" dir="auto">{escaped(_cut(reason, 1000))}</p>\n'
        f'<dl class="figures{" four" if len(rows) == 4 else ""}">{figures}</dl>\n'
        f'{_listed(advice["remarks"], "remarks")}</div>\n<nav aria-label="On this page"><ul>{links}</ul></nav>'
    )


def _figures(advice: Plain) -> list[tuple[str, str, str]]:
    """Return name, value and note of the few numbers of the first screen."""
    measure, ceiling, fitted = _measure(advice), advice["ceiling"], advice["crossfitted"]
    first = f"{advice['first']['mean']:.3f}"
    chosen = _chosen(advice)
    if fitted is None or chosen is None:
        return [
            (f"{measure} of the first stage", first, ""),
            ("if the same candidates stood in the best order", f"{ceiling['ideal']:.3f}", ""),
            ("the most that reranking can gain", _signed(ceiling["headroom"]), _between(ceiling)),
            ("of the queries have no relevant candidate", f"{ceiling['without_relevant']:.0%}", ""),
        ]
    budget_ms, budget_usd = advice["budget_ms"], advice["budget_usd"]
    figures = [
        (f"{measure}, on queries it was not chosen on", _signed(fitted["difference"]), _between(fitted)),
        (f"{measure}, first stage to the {_standing(advice)} one", f"{first} → {chosen['mean']:.3f}", "on all queries"),
        (
            "better, as good, worse",
            f"{fitted['wins']:,} · {fitted['ties']:,} · {fitted['losses']:,}",
            "of these queries",
        ),
        (
            "p95 of a query's time",
            _ms(chosen["p95_ms"]),
            "" if budget_ms is None else f"budget {escaped(_ms(budget_ms))}",
        ),
        (
            "for 1,000 queries",
            _usd(chosen["usd_per_1000"]),
            "" if budget_usd is None else f"budget {escaped(_usd(budget_usd))}",
        ),
    ]
    more = fitted.get("more_queries")
    if advice["decision"] == "inconclusive" and more is not None:
        figures.append(("would probably settle it", f"{_counted(more, 'more query', 'more queries')}", "a rough guide"))
    else:
        least = _number(fitted["detectable"], "not to be had")
        figures.append(("the smallest gain so many queries show", least, "in 8 of 10 cases"))
    return figures


def _tradeoff(advice: Plain) -> Section | None:
    configurations = advice["configurations"]
    if not configurations:
        return None
    measure, numbers = _cut(advice["measure"], 40), _front_numbers(configurations)
    series = _series(configurations)
    points = [
        Point(
            name=_cut(one["name"], 160),
            series=series[one["backend"]],
            x=max(one["p95_ms"], 0.001),
            y=one["difference"],
            low=one["difference_low"],
            high=one["difference_high"],
            front=numbers.get(i),
            chosen=i == advice["chosen"],
        )
        for i, one in enumerate(configurations)
        if one["p95_ms"] is not None
    ]
    drawn = ""
    if points:
        budget = advice["budget_ms"]
        drawn = _figure(
            *(
                charts.quality_over_time(
                    points,
                    key=f"tradeoff-{width}",
                    unit=measure,
                    first=f"{advice['first']['mean']:.3f}",
                    budget=budget if budget is not None and budget > 0 else None,
                    width=width,
                )
                for width in (_WIDE, _NARROW)
            ),
            caption=f"Whiskers: {_level(advice)} intervals of the gain over the first stage. The line joins what nothing else "
            f"beats in gain, time and price; its numbers are those of the table. The ring is the "
            f"{_standing(advice)} one."
            + (" Of the others, where they are many, the whiskers are left out." if len(points) > 24 else ""),
            legend=_legend(series),
        )
    untimed = len(configurations) - len(points)
    missing = f'<p class="note">Not drawn, no time known: {_counted(untimed, "configuration")}.</p>' if untimed else ""
    front = sorted(numbers, key=numbers.__getitem__)
    return _section(
        "tradeoff", "What it gains, and what that takes", drawn, missing, _front_table(advice, front, numbers)
    )


def _front_table(advice: Plain, front: Sequence[int], numbers: Mapping[int, int]) -> str:
    rows = []
    for i in front:
        one = advice["configurations"][i]
        cells = [f'<td class="n">{numbers[i]}</td>', _row_header(one, i == advice["chosen"], _standing(advice))]
        cells += [
            f'<td class="n">{value}</td>' for value in (_gain(one), _ms(one["p95_ms"]), _usd(one["usd_per_1000"]))
        ]
        rows.append(_row(cells, "chosen" if i == advice["chosen"] else ""))
    head = ("#", "configuration", f"gain, {_measure(advice)}", "p95", "1,000 queries")
    return _table("What nothing else beats", head, rows, numeric=(0, 2, 3, 4)) if rows else ""


def _depth(advice: Plain) -> Section | None:
    configurations = advice["configurations"]
    chosen = _chosen(advice)
    series = _series(configurations)
    curves = []
    for backend, number in series.items():
        own = [one for one in configurations if one["backend"] == backend]
        if len({one["depth"] for one in own}) > 1:
            best = max(own, key=lambda one: (one is chosen, one["difference"]))
            curves.append((backend, number, _lines(own, _mixture(best))))
    if not curves:
        return None
    measure = _cut(advice["measure"], 40)
    caption = (
        "From the first stage's own order at 0. Each line is one way to mix the backend with it: alone, fused by rank, or fused "
        f"by score; at 3:1 the backend counts three times as much. The strong line is the {_standing(advice)} "
        f"one, elsewhere the best; its band is the {_level(advice)} interval. The numbers are in the "
        '<a href="#all">table of all configurations</a>.'
    )
    if len(curves) == 1:
        backend, number, lines = curves[0]
        drawn = [
            charts.depth_curves(
                lines, key=f"depth-{width}", name=_cut(backend, 80), unit=measure, series=number, width=width
            )
            for width in (_WIDE, _NARROW)
        ]
        return _section("depth", "How deep to rerank", _figure(*drawn, caption=caption))
    span = charts.drawn_span(line for _, _, lines in curves for line in lines)
    panels = "".join(
        f"<div><h3><bdi>{escaped(_cut(backend, 80))}</bdi></h3>"
        + charts.depth_curves(
            lines, key=f"depth-{number}", name=_cut(backend, 80), unit=measure, series=number, span=span
        )
        + "</div>"
        for backend, number, lines in curves
    )
    panels = f'<figure><div class="panels">{panels}</div><figcaption>{caption}</figcaption></figure>'
    return _section("depth", "How deep to rerank", panels)


def _lines(configurations: Sequence[Plain], main: str) -> list[Line]:
    rows = sorted(configurations, key=lambda one: (one["depth"], one["weight"]))
    return [
        Line(
            label=label,
            points=[
                (one["depth"], one["difference"], one["difference_low"], one["difference_high"])
                for one in rows
                if _mixture(one) == label
            ],
            main=label == main,
        )
        for label in dict.fromkeys(map(_mixture, rows))
    ]


def _mixture(one: Plain) -> str:
    """Return how it is mixed with the first stage, short enough to stand at the end of a line."""
    weight = one["weight"]
    if weight in (0, 1):
        return "alone" if weight else "retrieval"
    return ("rank" if one["method"] == "rrf" else "score") + (
        "" if weight == 0.5 else f" {weight / (1 - weight):.2g}:1"
    )


def _queries(advice: Plain) -> Section | None:
    rows = advice["per_query"]
    if not rows:
        return None
    differences = [row["after"] - row["before"] for row in rows]
    measure = _cut(advice["measure"], 40)
    drawn = [charts.gains(differences, key=f"gains-{width}", unit=measure, width=width) for width in (_WIDE, _NARROW)]
    chosen = _chosen(advice)
    whose = "" if chosen is None else f"<p>With <bdi>{escaped(_cut(chosen['name'], 160))}</bdi>, on all queries.</p>"
    bars = _counted(-(-len(rows) // charts.MOST_BARS), "query", "queries")
    caption = f"Each bar is {bars}, the largest gain on the left." + (
        " Where it is several, it is their mean." if len(rows) > charts.MOST_BARS else ""
    )
    return _section(
        "queries", "Query by query", whose, _figure(*drawn, caption=caption), _changes(differences, measure)
    )


def _changes(differences: Sequence[float], measure: str) -> str:
    names = [f"more than {_signed(_CHANGES[0], 2)}"]
    for upper, lower in pairwise(_CHANGES):
        ends = [_signed(edge, 2) if abs(edge) > _TIE else "0" for edge in (lower, upper)]
        names.append("as good" if upper == _TIE else f"{ends[0]} to {ends[1]}")
    names.append(f"less than {_signed(_CHANGES[-1], 2)}")
    counts = [0] * len(names)
    for difference in differences:
        # An edge belongs to the row that is nearer to 0.
        counts[sum(difference <= edge if edge > 0 else difference < edge for edge in _CHANGES)] += 1
    rows = [
        _row([f'<th scope="row">{name}</th>', f'<td class="n">{count:,}</td>'])
        for name, count in zip(names, counts, strict=True)
    ]
    head = (f"change in {escaped(measure)}", "queries")
    return _folded("The same as a table", _table("Queries by what they gained or lost", head, rows, numeric=(1,)))


def _regressions(advice: Plain) -> Section | None:
    rows = advice["regressions"]
    if not rows:
        return None
    told = "<p>Where the new order is worst for the reader: the first documents before and after.</p>"
    parts = []
    for i, one in enumerate(rows):
        before, after = one["was"], one["now"]
        sides = _side("Before", before, {}) + _side(
            "After", after, {doc["docid"]: n for n, doc in enumerate(before, 1)}
        )
        summary = (
            f'<h3 dir="auto">{escaped(_cut(one["query"], 300))}</h3> '
            f'<span class="change">{one["before"]:.2f} → {one["after"]:.2f}</span>'
        )
        opened = " open" if i == 0 else ""
        parts.append(f'<details{opened}><summary>{summary}</summary><div class="sides">{sides}</div></details>')
    return _section("regressions", "The worst regressions", told, *parts)


def _side(name: str, documents: Sequence[Plain], places: Mapping[str, int]) -> str:
    items = []
    for document in documents:
        grade = document["grade"]
        kind, word = ("unjudged", "not judged") if grade is None else ("no", "not relevant")
        if grade is not None and grade > 0:
            kind, word = "yes", "relevant" if grade == 1 else f"relevant, grade {grade:g}"
        came = ""
        if places:
            place = places.get(document["docid"])
            came = f" · {'from further down' if place is None else f'was {place}'}"
        items.append(
            f'<li><span class="grade {kind}">{word}</span><span class="note">{came} · '
            f"<bdi>{escaped(_cut(document['docid'], 60))}</bdi></span>"
            f'<p dir="auto">{escaped(_cut(document["text"], 300))}</p></li>'
        )
    listed = f"<ol>{''.join(items)}</ol>" if items else '<p class="note">nothing</p>'
    return f"<div><h4>{name}</h4>{listed}</div>"


def _ceiling(advice: Plain) -> Section | None:
    ceiling, measure = advice["ceiling"], _measure(advice)
    told = (
        f"<p>Reranking reorders what was retrieved and finds nothing new. The same candidates in the best order would have "
        f"{measure} {ceiling['ideal']:.3f}; the first stage's order has {advice['first']['mean']:.3f}. So "
        f"{_signed(ceiling['headroom'])} ({_range(ceiling)}) is the most there is to gain. On "
        f"{ceiling['without_relevant']:.0%} of the queries no candidate is relevant: there only retrieval can help.</p>"
    )
    recall = sorted((int(depth), share) for depth, share in ceiling["recall"].items())
    drawn = ""
    if recall:
        bars = [charts.recall_bars(recall, key=f"recall-{width}", width=width) for width in (_WIDE, _NARROW)]
        drawn = _figure(
            *bars, caption="How much of what is relevant is among the first so many candidates, the mean over queries."
        )
    return _section("ceiling", "What retrieval leaves to gain", told, drawn)


def _reliability(advice: Plain) -> Section | None:
    panels = []
    for i, one in enumerate(advice["reliability"]):
        name, bins = str(one["backend"]), one["bins"]
        told = f"{escaped(_cut(one['method'], 40))} on {_counted(one['labels'], 'pair')}"
        told += f", off by {_number(one['error'])} on average, Brier score {_number(one['brier'])}."
        told += f" {escaped(_cut(one['note'], 1000))}" if one["note"] else ""
        drawn = table = ""
        if bins:
            points = [(b["predicted"], b["observed"], b["count"]) for b in bins]
            number = _series(advice["configurations"]).get(name, i)
            drawn = charts.reliability_plot(points, key=f"reliability-{i}", name=_cut(name, 80), series=number)
            rows = [
                _row(
                    [f'<th scope="row">{b["low"]:.2f} to {b["high"]:.2f}</th>']
                    + [
                        f'<td class="n">{v}</td>'
                        for v in (f"{b['predicted']:.2f}", f"{b['observed']:.2f}", f"{b['count']:,}")
                    ]
                )
                for b in bins
            ]
            head = ("told", "mean", "relevant", "pairs")
            caption = f"{escaped(_cut(name, 80))}: what was told, and what was so"
            table = _folded("The same as a table", _table(caption, head, rows, numeric=(1, 2, 3)))
        heading = f"<h3><bdi>{escaped(_cut(name, 80))}</bdi></h3>"
        panels.append(f'<div>{heading}{drawn}<p class="note">{told}</p>{table}</div>')
    if not panels:
        return None
    return _section(
        "reliability",
        "Whether its scores can be trusted",
        "<p>Scores turned into probabilities of relevance, tried on pairs that were held out. On the diagonal, of what is told "
        "at 0.8 eight in ten are relevant, and a threshold means what it says.</p>",
        f'<div class="panels">{"".join(panels)}</div>',
    )


def _all(advice: Plain) -> Section | None:
    configurations = advice["configurations"]
    if not configurations:
        return None
    numbers = _front_numbers(configurations)
    budgeted = advice["budget_ms"] is not None or advice["budget_usd"] is not None
    rows = []
    for i, one in sorted(enumerate(configurations), key=lambda pair: -pair[1]["difference"]):
        chosen = i == advice["chosen"]
        standing = f"{numbers[i]}, unbeaten" if i in numbers else "beaten"
        cells = [_row_header(one, chosen, _standing(advice))]
        cells += [
            f'<td class="n">{value}</td>'
            for value in (
                _gain(one),
                f"{one['mean']:.3f}",
                _ms(one["p50_ms"]),
                _ms(one["p95_ms"]),
                _usd(one["usd_per_1000"]),
            )
        ]
        cells += [f"<td>{'within' if one['within_budget'] else 'over'}</td>"] if budgeted else []
        cells += [f"<td>{standing}</td>", f"<td>{_mishaps(one)}</td>"]
        rows.append(_row(cells, "chosen" if chosen else "" if i in numbers else "dominated"))
    measure = _measure(advice)
    head = ["configuration", "gain", measure, "p50", "p95", "1,000 queries"]
    head += ["budget"] if budgeted else []
    told = (
        "<p>On all queries. The choice was made on these numbers, so the best of many looks better here than it is: the gain at "
        "the top of the page is of queries that a configuration was not chosen on. “Beaten” means that another gains as much "
        "in no more time and for no more money, and does better in one of them.</p>"
    )
    table = _table(
        f"{_counted(len(rows), 'configuration')}, by what they gain; first stage {advice['first']['mean']:.3f}",
        [*head, "standing", "mishaps"],
        rows,
        numeric=range(1, 6),
    )
    folds = advice["crossfitted"] and advice["crossfitted"].get("chosen")
    picked = ""
    if folds:
        ordered = sorted(folds.items(), key=lambda pair: -pair[1])
        names = "; ".join(f"<bdi>{escaped(_cut(name, 160))}</bdi> {count}×" for name, count in ordered)
        picked = f"<p>Chosen on the {int(advice['crossfitted']['folds'])} parts: {names}.</p>"
    return _section("all", "All configurations", told, picked, table)


def _mishaps(one: Plain) -> str:
    words = (("failed", "failed"), ("degraded", "degraded"))
    return ", ".join(f"{one[name]:,} {word}" for name, word in words if one[name]) or "none"


def _issues(advice: Plain) -> Section | None:
    if not advice["issues"]:
        return None
    return _section("issues", "What was odd in the data", _listed(advice["issues"], "remarks"))


def _method(advice: Plain) -> Section:
    interval = (
        f"An interval is a paired bootstrap over groups of queries at {_level(advice)}; a difference is called one only if a "
        "randomisation test agrees. Queries are taken for a sample of those to come."
    )
    unjudged = "A document without a judgement counts as not relevant."
    fitted = advice["crossfitted"]
    if fitted is None:
        lines = [
            "The judgements alone say how the candidates would stand in the best order: no backend was asked.",
            interval,
            unjudged,
        ]
    else:
        lines = [
            "Every backend is given the same candidates, once; depths and weights are tried on the scores that were kept.",
            f"Queries are split into {int(fitted['folds'])} parts, those about the same documents in one part. A configuration "
            "is chosen on all parts but one and measured on that one, each in turn: no query counts for a configuration that it "
            "helped to choose.",
            interval,
            "Advised is the cheapest configuration within the budgets that is not worse than the best by more than "
            f"{advice['margin']:g}, where a gain is shown. Skip means that a larger gain than that is ruled out. Inconclusive "
            "means that so few queries show neither; it does not mean equal.",
            f"Times are of one query at a time, warm, on the machine that made this page; prices are list prices. {unjudged}",
        ]
    return _section("method", "How this was found", f"<ol>{''.join(f'<li>{line}</li>' for line in lines)}</ol>")


def _use(advice: Plain) -> Section | None:
    spec, chosen = advice["spec"], _chosen(advice)
    if spec is None:
        return None
    declared = json.dumps(spec, indent=2)
    # A list of plain values on one line; no string of JSON holds a line end.
    declared = re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), declared)
    arguments = ['from_spec("reranker.json")', *([f"candidates={int(chosen['depth'])}"] if chosen else []), "top_n=10"]
    llama = _call("llamaindex_rerankx", arguments)
    scored = ['retrieval_score=lambda document: document.metadata["score"]'] if _asks_for_scores(spec) else []
    lang = _call("langchain_rerankx", [*arguments, *scored])
    note = ""
    if _asks_for_scores(spec):
        note = (
            "<p>It adds up scores, so it needs the retriever's: LlamaIndex's nodes carry them; a LangChain document does not, "
            "so say where yours has it.</p>"
        )
    return _section(
        "use",
        "How to use it" if advice["decision"] == "rerank" else "How to try it all the same",
        "<p>Save this as <code>reranker.json</code>; it holds no secrets. Both frameworks load it as it stands.</p>",
        _code(declared, "The spec"),
        "<h3>LangChain</h3>",
        _code(lang, "LangChain"),
        "<h3>LlamaIndex</h3>",
        _code(llama, "LlamaIndex"),
        note,
    )


def _call(package: str, arguments: Sequence[str]) -> str:
    lines = "".join(f"    {argument},\n" for argument in ("retriever", *arguments))
    return f"from {package} import rerank\nfrom rerankx import from_spec\n\nretriever = rerank(\n{lines})"


def _asks_for_scores(spec: object) -> bool:
    """Return whether a fusion in it adds up the retriever's scores."""
    if isinstance(spec, Mapping):
        if spec.get("method") == "weighted" and "retrieval" in spec.get("backends", ()):
            return True
        return any(map(_asks_for_scores, spec.values()))
    return isinstance(spec, Sequence) and not isinstance(spec, str) and any(map(_asks_for_scores, spec))


_PARTS = (_tradeoff, _depth, _queries, _regressions, _ceiling, _reliability, _use, _all, _issues, _method)


def _chosen(advice: Plain) -> Plain | None:
    chosen: Plain | None = None if advice["chosen"] is None else advice["configurations"][advice["chosen"]]
    return chosen


def _standing(advice: Plain) -> str:
    return "recommended" if advice["decision"] == "rerank" else "nearest"


def _series(configurations: Iterable[Plain]) -> dict[str, int]:
    """Return a number per backend, in the order in which they come."""
    backends = dict.fromkeys(str(one["backend"]) for one in configurations)
    return {backend: i for i, backend in enumerate(backends)}


def _front_numbers(configurations: Sequence[Plain]) -> dict[int, int]:
    """Return the number of each configuration on the Pareto front, from 1, by its time; those without a time last."""

    def by_time(i: int) -> tuple[float, float]:
        ms = configurations[i]["p95_ms"]
        return (math.inf if ms is None else ms, configurations[i]["difference"])

    front = sorted((i for i, one in enumerate(configurations) if one["pareto"]), key=by_time)
    return {i: number for number, i in enumerate(front, 1)}


def _legend(series: Mapping[str, int]) -> str:
    items = (
        f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true">{charts.marker(8, 8, number, 5)}</svg>'
        f"<bdi>{escaped(_cut(backend, 80))}</bdi></li>"
        for backend, number in series.items()
    )
    return f'<ul class="legend" aria-label="Backends">{"".join(items)}</ul>'


def _figure(wide: str, narrow: str, *, caption: str, legend: str = "") -> str:
    return (
        f'<figure>{legend}<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(caption: str, head: Sequence[str], rows: Sequence[str], *, numeric: Iterable[int] = ()) -> str:
    right = set(numeric)
    names = "".join(f'<th scope="col"{" class=n" * (i in right)}>{name}</th>' for i, name in enumerate(head))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(cells: Sequence[str], kind: str = "") -> str:
    return f"<tr{f' class={kind}' if kind else ''}>{''.join(cells)}</tr>"


def _row_header(one: Plain, chosen: bool, standing: str) -> str:
    told = f' <span class="note">({standing})</span>' if chosen else ""
    return f'<th scope="row"><bdi>{escaped(_cut(one["name"], 160))}</bdi>{told}</th>'


def _folded(summary: str, inner: str) -> str:
    return f"<details><summary>{summary}</summary>{inner}</details>"


def _code(text: str, name: str) -> str:
    return f'<pre role="region" tabindex="0" aria-label="{name}"><code>{escaped(text)}</code></pre>'


def _listed(lines: Sequence[object], kind: str) -> str:
    items = "".join(f'<li dir="auto">{escaped(_cut(line, 1000))}</li>' for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _cut(value: object, most: int) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _counted(n: int, one: str, several: str = "") -> str:
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def _measure(advice: Plain) -> str:
    return escaped(_cut(advice["measure"], 40))


def _level(advice: Plain) -> str:
    return f"{100 * advice['level']:.4g} %"


def _signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _range(row: Plain) -> str:
    return f"{_signed(row['low'])} to {_signed(row['high'])}"


def _between(row: Plain) -> str:
    return f"between {_signed(row['low'])} and {_signed(row['high'])}"


def _gain(one: Plain) -> str:
    low, high = _signed(one["difference_low"]), _signed(one["difference_high"])
    return f'{_signed(one["difference"])} <span class="note">({low} to {high})</span>'


def _number(value: float | None, unknown: str = "not known") -> str:
    return unknown if value is None or not math.isfinite(value) else f"{value:.3f}"


def _ms(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"


def _usd(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"${value:,.2f}" if value >= 0.01 else f"${value:.2g}"
