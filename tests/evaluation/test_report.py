import json
import math
import random
import re
import xml.etree.ElementTree as ET
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from advice_stage import ENDED_BEFORE_ANY_MODEL, HOSTILE, advice, configuration, hostile
from hypothesis import given
from hypothesis import strategies as st

from rerankx import from_spec
from rerankx.evaluation import charts
from rerankx.evaluation.charts import Line, Point
from rerankx.evaluation.report import report

VOID = {"meta", "br"}


class Page(HTMLParser):
    """What is on a page; an AssertionError where its elements do not close as they open."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text, self.styles = [], [], [], ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.styles += data
        else:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def svgs(html):
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)]


def test_the_page_is_well_formed_and_its_charts_are_xml():
    html = report(advice())
    assert Page(html).named("main") == [{"class": "rerank"}]
    assert len(svgs(html)) > 6


def test_the_decision_is_said_in_a_word_a_sentence_and_figures():
    words = Page(report(advice())).words
    assert "Rerank embedded, first 50 gains +0.049 nDCG@10 (+0.028 to +0.071)." in words
    assert "121 · 102 · 60" in words
    assert "between +0.028 and +0.071" in words
    assert "budget 100 ms" in words


@pytest.mark.parametrize(
    ("decision", "word"), [("rerank", "Rerank"), ("skip", "Skip reranking"), ("inconclusive", "Inconclusive")]
)
def test_each_decision_has_its_word_in_heading_and_title(decision, word):
    html = report(advice(decision=decision))
    assert f"</span>{word}</h1>" in html
    assert f"<title>{word}: scifact" in html
    assert f'<main class="{decision}">' in html


def test_an_inconclusive_advice_says_how_many_more_queries():
    fitted = {**advice()["crossfitted"], "more_queries": 1240}
    assert "1,240 more queries" in Page(report(advice(decision="inconclusive", crossfitted=fitted))).words


def test_a_sentence_that_lost_its_first_word_begins_with_a_capital_but_a_name_keeps_its_own():
    assert ">The candidates are</p>" in report(advice(decision="skip", reason="Skip: the candidates are"))
    assert ">embedded, first 50 gains" in report(advice())


@pytest.mark.parametrize(
    ("decision", "sentence", "shown"),
    [
        ("rerank", "Rerank with embedded: +0.1", "With embedded: +0.1"),
        ("skip", "Do not rerank, fix retrieval: even", "Fix retrieval: even"),
        ("skip", "Do not rerank within 5 ms: nothing is", "Do not rerank within 5 ms: nothing is"),
    ],
)
def test_the_word_above_the_sentence_is_not_said_twice(decision, sentence, shown):
    assert f'dir="auto">{shown}</p>' in report(advice(decision=decision, reason=sentence))


def test_two_ways_to_fuse_at_one_weight_are_two_lines():
    rows = [
        configuration(depth=depth, weight=weight, method=method, difference=depth / 1000 * weight)
        for depth in (10, 50)
        for method, weight in (("rrf", 1.0), ("rrf", 0.5), ("weighted", 0.5), ("weighted", 0.75))
    ]
    html = report(advice(configurations=rows, chosen=0))
    depth = next(svg for svg in svgs(html) if svg.get("aria-labelledby", "").startswith("depth-680"))
    labels = [text.text for text in depth.iter() if text.get("text-anchor") == "start"]
    assert sorted(labels) == ["alone", "rank", "score", "score 3:1"]


def test_an_advice_that_ended_at_the_ceiling_says_what_could_be_gained_and_draws_no_backend():
    page = Page(report(advice(**ENDED_BEFORE_ANY_MODEL)))
    assert "the most that reranking can gain" in page.words
    assert "no backend was asked" in page.words
    ids = {attributes["id"] for attributes in page.named("section")}
    assert ids == {"ceiling", "issues", "method"}


@pytest.mark.parametrize(
    ("emptied", "gone"),
    [
        ({"per_query": []}, "queries"),
        ({"regressions": []}, "regressions"),
        ({"reliability": []}, "reliability"),
        ({"issues": []}, "issues"),
        ({"spec": None}, "use"),
    ],
)
def test_what_is_empty_has_no_section_and_no_link(emptied, gone):
    page = Page(report(advice(**emptied)))
    assert gone not in {attributes.get("id") for attributes in page.named("section")}
    assert f"#{gone}" not in {attributes["href"] for attributes in page.named("a")}


def test_every_link_leads_somewhere_on_the_page_and_ids_are_unique():
    page = Page(report(advice()))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"].removeprefix("#") for attributes in page.named("a")} <= set(ids)
    named = [name for _, attributes in page.elements for name in attributes.get("aria-labelledby", "").split()]
    assert named
    assert set(named) <= set(ids)


def test_headings_go_down_one_level_at_a_time_from_one_first():
    levels = [int(tag[1]) for tag, _ in Page(report(advice())).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_chart_is_an_image_with_title_and_description_or_is_hidden_from_readers():
    for svg in svgs(report(advice())):
        if svg.get("aria-hidden") != "true":
            assert svg.get("role") == "img"
            title, told = svg[0], svg[1]
            assert (title.tag, told.tag) == ("title", "desc")
            assert f"{title.get('id')} {told.get('id')}" == svg.get("aria-labelledby")
            assert title.text
            assert told.text


def test_the_page_refers_to_nothing_outside_and_forbids_it():
    html = report(advice())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in page.elements}
    assert not re.search(r"https?:|//|url\(|@import", html)
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on") or a in ("src", "style")]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_texts_are_shown_and_never_markup(text):
    html = report(hostile(text))
    html.encode("utf-8")
    page, plain = Page(html), Page(report(hostile("plain")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [list(attributes) for _, attributes in page.elements] == [
        list(attributes) for _, attributes in plain.elements
    ]
    svgs(html)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe]", html)
    assert len(html) < 200_000


@given(st.text(alphabet=st.characters(), max_size=30))
def test_any_text_is_valid_in_xml_and_reads_the_same_but_for_what_is_forbidden(text):
    escaped = charts.escaped(text)
    read = ET.fromstring(f'<a b="{escaped}">{escaped}</a>')
    allowed = [letter for letter in text if letter.isalnum() and not 0xD800 <= ord(letter) < 0xE000]
    assert [letter for letter in read.text or "" if letter.isalnum()] == allowed
    assert "<" not in escaped


def test_line_ends_stay_and_form_feeds_become_blanks():
    assert charts.escaped("a\r\nb\rc\x0cd") == "a\nb\nc d"


def test_letters_that_run_from_right_to_left_stay_and_are_kept_apart():
    query = "هل يقلل فيتامين د من خطر الكسور؟"
    assert f'<h3 dir="auto">{query}</h3>' in report(
        advice(regressions=[{**advice()["regressions"][0], "query": query}])
    )


def test_grades_and_moves_are_said_in_words():
    page = Page(report(advice()))
    after = page.words[page.words.index("After") :]
    assert "not judged · from further down · d3" in after
    assert "relevant, grade 2 · was 1 · d1" in after
    before = page.words[page.words.index("Before") : page.words.index("After")]
    assert "relevant · d1" in before
    assert "not relevant · d2" in before


def test_dominated_rows_and_the_recommended_one_are_said_in_words():
    html = report(advice())
    table = html[html.index('<section id="all"') :]
    assert table.count("<tr class=dominated>") == 4
    assert table.count(">beaten<") == 4
    assert table.count("(recommended)") == 1
    assert ">within<" in table
    assert "(nearest)" in report(advice(decision="skip"))


def test_mishaps_are_counted_in_the_table():
    rows = [configuration(failed=2, degraded=1, within_budget=False)]
    words = Page(report(advice(configurations=rows, chosen=0))).words
    assert "2 failed, 1 degraded" in words
    assert " over " in words


def test_the_budget_has_no_column_where_there_is_none():
    html = report(advice(budget_ms=None, budget_usd=None))
    assert ">budget<" not in html
    assert "budget 100" not in html


def test_one_configuration_makes_a_page():
    html = report(advice(configurations=[configuration()], chosen=0))
    Page(html)
    assert 'id="tradeoff"' in html
    assert 'id="depth"' not in html


def test_unknown_times_and_prices_are_said_and_not_drawn():
    rows = [configuration(ms=None, usd_per_1000=None), configuration("minilm", ms=20.0, usd_per_1000=None)]
    html = report(advice(configurations=rows, chosen=0))
    assert "Not drawn, no time known: 1 configuration." in html
    assert "not known" in html
    rows = [configuration(ms=None)]
    assert "tradeoff-680" not in report(advice(configurations=rows, chosen=0))


def test_numbers_that_are_infinite_none_or_nought_make_a_page():
    fitted = {**advice()["crossfitted"], "detectable": None}
    assert "not to be had" in report(advice(crossfitted=fitted))
    assert "not to be had" in report(advice(crossfitted={**fitted, "detectable": math.inf}))
    Page(report(advice(configurations=[configuration(ms=0.0)], chosen=0, budget_ms=0.0)))


def test_equal_values_make_charts():
    rows = [configuration(depth=depth, difference=0.0, difference_low=0.0, difference_high=0.0) for depth in (10, 50)]
    same = [{"qid": str(i), "query": "q", "before": 0.5, "after": 0.5} for i in range(9)]
    html = report(advice(configurations=rows, chosen=1, per_query=same))
    assert "nan" not in html
    assert all(svgs(html))
    assert "0 better, 9 as good, 0 worse" in html


def test_thousands_of_queries_stay_a_small_page():
    source = random.Random(0)
    rows = [
        {"qid": str(i), "query": "q" * 200, "before": source.random(), "after": source.random()} for i in range(5000)
    ]
    many, few = report(advice(per_query=rows)), report(advice())
    assert len(many) < len(few) + 20_000
    assert "Each bar is 32 queries" in many


def test_hundreds_of_configurations_stay_within_some_hundred_kilobytes():
    rows = [
        configuration(f"backend {b}", depth, weight / 4, difference=0.001 * depth * weight, ms=depth + b, pareto=False)
        for b in range(8)
        for depth in (10, 20, 50, 100, 200)
        for weight in range(5)
    ]
    assert len(report(advice(configurations=rows, chosen=0))) < 400_000


def test_an_advice_that_went_through_json_makes_the_same_page():
    assert report(json.loads(json.dumps(advice()))) == report(advice())


def test_the_same_advice_makes_the_same_page_and_is_left_as_it_was():
    given_one = advice()
    assert report(given_one) == report(advice())
    assert given_one == advice()


@pytest.mark.parametrize("changed", [{"rerankx": "advice-2"}, {"rerankx": None}, {"decision": "maybe"}])
def test_what_is_no_advice_is_refused(changed):
    with pytest.raises(ValueError, match="expected"):
        report(advice(**changed))


def test_the_table_of_changes_counts_every_query_once():
    values = [0.6, 0.5, 0.21, 0.2, 0.01, 0.0, 1e-12, -0.05, -0.06, -0.9]
    rows = [{"qid": str(i), "query": "q", "before": 0.0, "after": value} for i, value in enumerate(values)]
    html = report(advice(per_query=rows))
    table = html[
        html.index("<caption>Queries by what") : html.index("</table>", html.index("<caption>Queries by what"))
    ]
    counts = dict(re.findall(r'<th scope="row">(.*?)</th><td class="n">(\d+)</td>', table))
    assert counts == {
        "more than +0.50": "1",
        "+0.20 to +0.50": "2",
        "+0.05 to +0.20": "1",
        "0 to +0.05": "1",
        "as good": "2",
        "−0.05 to 0": "1",
        "−0.20 to −0.05": "1",
        "−0.50 to −0.20": "0",
        "less than −0.50": "1",
    }


def codes(html):
    found = re.findall(r'<pre [^>]*aria-label="([^"]*)"><code>(.*?)</code></pre>', html, flags=re.DOTALL)
    return {name: unescape(text) for name, text in found}


def test_the_spec_is_shown_as_it_is_and_loads():
    spec = advice()["spec"]
    shown = json.loads(codes(report(advice()))["The spec"])
    assert shown == spec
    assert from_spec(shown).backend.name == "cascade"
    odd = {"backend": {"cohere": {"model": "a[b, c]\n{d}"}}, "after": ["mmr", "lost_in_the_middle"]}
    assert json.loads(codes(report(advice(spec=odd)))["The spec"]) == odd


def test_the_snippets_are_python_that_calls_both_adapters():
    found = codes(report(advice()))
    compile(found["LangChain"], "snippet", "exec")
    compile(found["LlamaIndex"], "snippet", "exec")
    assert "from langchain_rerankx import rerank" in found["LangChain"]
    assert "from llamaindex_rerankx import rerank" in found["LlamaIndex"]
    assert "candidates=50," in found["LangChain"]
    assert "retrieval_score" not in found["LangChain"]


def test_langchain_is_told_to_pass_scores_only_where_a_fusion_adds_them_up():
    fusion = {"fusion": {"backends": ["retrieval", "embedded"], "method": "weighted", "weights": [1, 3]}}
    found = codes(report(advice(spec={"backend": {"cascade": {"stages": ["retrieval", fusion], "keep": 50}}})))
    compile(found["LangChain"], "snippet", "exec")
    assert "retrieval_score=" in found["LangChain"]
    assert "retrieval_score=" not in found["LlamaIndex"]
    by_rank = {"fusion": {"backends": ["retrieval", "embedded"]}}
    assert "retrieval_score=" not in codes(report(advice(spec={"backend": by_rank})))["LangChain"]


def test_the_snippet_for_langchain_runs(tmp_path, monkeypatch):
    pytest.importorskip("langchain_core")
    from langchain_core.documents import Document
    from langchain_core.runnables import RunnableLambda

    shown = codes(report(advice()))
    (tmp_path / "reranker.json").write_text(shown["The spec"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    texts = ["bread", "how to get your money back: refunds take five days", "shoes"]
    found = RunnableLambda(lambda _: [Document(page_content=text) for text in texts])
    # A function's number of candidates is its own.
    code = shown["LangChain"].replace("    candidates=50,\n", "")
    names = {"retriever": found}
    exec(compile(code, "snippet", "exec"), names)
    assert names["retriever"].invoke("refund money")[0].page_content == texts[1]


# Charts


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.integers(2, 10))
def test_ticks_are_within_as_many_as_asked_for_and_equally_far_apart(low, span, most):
    low, span = low / 1000, span / 1000
    found = charts.ticks(low, low + span, most)
    assert len(found) <= most
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)
    steps = [after - before for before, after in pairwise(found)]
    assert all(step == pytest.approx(steps[0]) and step > 0 for step in steps)


def test_known_ticks():
    assert charts.ticks(0, 1) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(-0.013, 0.071) == [0.0, 0.02, 0.04, 0.06]
    assert charts.ticks(3, 3) == [3]
    assert charts.log_ticks(8, 60) == [10, 20, 50]
    assert charts.log_ticks(3, 1200, 6) == [3, 10, 30, 100, 300, 1000]
    assert charts.log_ticks(24, 43) == [25, 30, 35, 40]
    assert charts.log_ticks(1e-3, 1e9, 4) == pytest.approx([1e-3, 10, 1e5, 1e9])


@given(st.lists(st.floats(0, 200), min_size=1, max_size=8))
def test_labels_are_spread_apart_in_their_order(places):
    moved = charts.spread(places, 12, 0, 200)
    ordered = [moved[i] for i in sorted(range(len(places)), key=places.__getitem__)]
    assert all(after - before >= 12 - 1e-9 for before, after in pairwise(ordered))
    assert min(moved) >= -1e-9
    assert max(moved) <= 200 + 1e-9


def test_labels_that_are_apart_stay_where_they_are():
    assert charts.spread([50, 10, 90], 12, 0, 200) == [50, 10, 90]


def test_thirty_six_series_have_a_mark_each():
    marks = {charts.marker(0, 0, series, 4) for series in range(36)}
    assert len(marks) == 36


def point(**changed):
    return Point(**{"name": "one", "series": 0, "x": 10.0, "y": 0.02, "low": 0.0, "high": 0.04, **changed})


def test_the_chosen_point_is_ringed_and_said_in_the_description():
    svg = charts.quality_over_time([point(), point(name="two", x=50.0, chosen=True)], key="k", unit="AP", first="0.5")
    assert svg.count('class="ring"') == 1
    assert "Ringed: two, +0.020 at 50 ms." in svg


def test_the_front_is_a_line_that_rises_with_time():
    points = [point(x=10.0, y=0.01, front=1), point(x=20.0, y=0.005, front=2), point(x=30.0, y=0.03, front=3)]
    svg = charts.quality_over_time(points, key="k", unit="AP", first="0.5")
    line = re.search(r'class="front" d="M(.*?)"', svg)[1]
    assert line.count("L") == 1
    ends = [tuple(map(float, place.split())) for place in line.split("L")]
    assert ends[0][0] < ends[1][0]
    assert ends[0][1] > ends[1][1]


def test_whiskers_are_left_out_of_what_is_dominated_where_there_are_many():
    few = charts.quality_over_time([point()] * 24, key="k", unit="AP", first="0.5")
    many = charts.quality_over_time([*[point()] * 24, point(front=1)], key="k", unit="AP", first="0.5")
    assert few.count('<path class="c0"') == 24
    assert many.count('<path class="c0"') == 1


def test_a_line_by_depth_starts_at_the_first_stage():
    lines = [Line("1", [(10, 0.02, 0.0, 0.04), (50, 0.03, 0.0, 0.06)], main=True), Line("0.5", [(10, 0.01, 0, 0)])]
    svg = charts.depth_curves(lines, key="k", name="n", unit="AP")
    start = re.search(r'class="zero" x1="(.*?)" x2=".*?" y1="(.*?)"', svg).groups()
    assert f'd="M{start[0]} {start[1]}L' in svg
    assert svg.count("band") == 1
    assert "Largest gain: +0.030 at the first 50 candidates, 1." in svg


def test_bars_of_gains_and_losses_are_never_mixed():
    values = [0.5] * 300 + [0.0] * 10 + [-0.25] * 90
    svg = charts.gains(values, key="k", unit="AP")
    ET.fromstring(svg)
    heights = {
        kind: set(re.findall(r"V([\d.]+)H", re.search(f'class="{kind}" d="(.*?)"', svg)[1]))
        for kind in ("gain", "loss")
    }
    assert [len(heights[kind]) for kind in ("gain", "loss")] == [1, 1]
    assert "300 better, 10 as good, 90 worse" in svg
