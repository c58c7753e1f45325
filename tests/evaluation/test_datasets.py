"""What lies in files, tables and retrievers becomes a dataset, and what is wrong with it is said."""

import gzip
import json
import os
import pickle
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx.errors import MissingDependencyError
from rerankx.evaluation import evaluate
from rerankx.evaluation.datasets import (
    Candidate,
    Dataset,
    from_beir,
    from_candidates,
    from_llama_index,
    from_table,
    from_trec,
    load,
    read_qrels,
    read_run,
    with_retriever,
    write_run,
)

DATA = Path(os.environ.get("RERANKX_DATA", Path(__file__).parents[3] / "shared" / "data"))

CORPUS = [
    {"_id": "d1", "title": "Refunds", "text": "Paid back in ten days."},
    {"_id": "d2", "title": "", "text": "Cats sleep."},
    {"_id": "d3", "text": "Parcels are sent on Mondays."},
]
QUERIES = [{"_id": "q1", "text": "refund"}, {"_id": "q2", "text": "when do parcels leave"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n"
HITS = [
    {
        "qid": "q1",
        "query": "refund",
        "hits": [{"docid": "d2", "rank": 2, "score": 1.5}, {"docid": "d1", "rank": 1, "score": 3}],
    },
    {"qid": "q2", "query": "when do parcels leave", "hits": [{"docid": "d3", "rank": 1, "score": 0.5}]},
]


def as_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def beir(folder, *, corpus=CORPUS, queries=QUERIES, qrels=QRELS, hits=HITS):
    """Write a folder in BEIR layout; a part that is None is left out, a part that is text is written as it is."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, part in (
        ("corpus.jsonl", corpus),
        ("queries.jsonl", queries),
        ("qrels/test.tsv", qrels),
        ("candidates.BM25.jsonl", hits),
    ):
        if part is not None:
            text = part if isinstance(part, str | bytes) else as_lines(part)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def ids(dataset):
    return {qid: [one.docid for one in found] for qid, found in dataset.candidates.items()}


def issue(dataset):
    """Return the only issue there is."""
    (only,) = dataset.issues
    return only


# Dataset


def small():
    return Dataset(
        "small",
        {"q1": "a", "q2": "b"},
        {"q1": {"d1": 1}, "q2": {}},
        {"q1": (Candidate("d1", "x"), Candidate("d2", "y")), "q2": ()},
    )


def test_a_subset_has_the_queries_asked_for_in_that_order():
    part = small().subset(["q2", "q1", "q2"])
    assert (list(part.queries), list(part.qrels), list(part.candidates)) == (["q2", "q1"],) * 3
    assert list(small().subset("q1").queries) == ["q1"]


def test_a_subset_of_an_unknown_query_is_an_error():
    with pytest.raises(ValueError, match="no query 'q9'"):
        small().subset(["q9"])


def test_a_depth_keeps_the_best_candidates():
    assert ids(small().depth(1)) == {"q1": ["d1"], "q2": []}
    with pytest.raises(ValueError, match="at least 1"):
        small().depth(0)


def test_a_dataset_whose_parts_have_other_queries_is_an_error():
    with pytest.raises(ValueError, match="'q2' is in only one of queries and candidates"):
        Dataset("odd", {"q1": "a"}, {"q1": {}}, {"q1": (), "q2": ()})


def test_a_dataset_says_what_it_is_and_pickles():
    assert repr(small()) == "<Dataset small: 2 queries, 1 judgements, 2 candidates>"
    assert pickle.loads(pickle.dumps(small())) == small()


# BEIR folders


def test_a_beir_folder_is_loaded_with_its_candidates(tmp_path):
    dataset = load(beir(tmp_path / "mini"))
    assert dataset == Dataset(
        name="mini",
        queries={"q1": "refund", "q2": "when do parcels leave"},
        qrels={"q1": {"d1": 2, "d2": 0}, "q2": {"d3": 1}},
        candidates={
            "q1": (Candidate("d1", "Refunds Paid back in ten days.", 3.0), Candidate("d2", "Cats sleep.", 1.5)),
            "q2": (Candidate("d3", "Parcels are sent on Mondays.", 0.5),),
        },
        first_stage="BM25",
        issues=(),
    )


def test_its_candidates_can_be_named_or_loaded_themselves(tmp_path):
    folder = beir(tmp_path)
    (folder / "candidates.other.jsonl").write_text(as_lines(HITS[:1]))
    with pytest.raises(ValueError, match=r"several first stages: candidates\.BM25\.jsonl, candidates\.other\.jsonl"):
        load(folder)
    by_path = load(folder, candidates=folder / "candidates.other.jsonl")
    assert by_path == load(folder / "candidates.other.jsonl")
    assert by_path.first_stage == "other"
    assert "queries without candidates, kept: they count 0: 1, such as query 'q2'" in issue(by_path)


def test_candidates_may_be_a_run_a_mapping_or_a_function(tmp_path):
    folder = beir(tmp_path, hits=None)
    (folder / "run.txt").write_text("q1 Q0 d2 1 1.0 x\nq1 Q0 d1 2 2.0 x\nq9 Q0 d1 1 1 x\n")
    assert ids(load(folder, candidates=folder / "run.txt")) == {"q1": ["d1", "d2"], "q2": []}
    assert ids(load(folder, candidates={"q1": ["d2", "d1"]})) == {"q1": ["d2", "d1"], "q2": []}
    assert ids(load(folder, candidates={"q1": {"d2": 1.0, "d1": 3.0}})) == {"q1": ["d1", "d2"], "q2": []}
    assert ids(load(folder, candidates={}))["q1"] == []
    (folder / "corpus.jsonl").unlink()
    assert ids(load(folder, candidates=lambda query: [("d1", query)]))["q2"] == ["d1"]


def test_a_ranking_that_is_a_string_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'q1': expected a list of document ids"):
        load(beir(tmp_path), candidates={"q1": "d1"})


def test_only_so_many_candidates_are_kept(tmp_path):
    assert ids(load(beir(tmp_path), depth=1)) == {"q1": ["d1"], "q2": ["d3"]}
    with pytest.raises(ValueError, match="depth must be at least 1"):
        load(tmp_path, depth=0)


def test_a_split_has_judgements_and_may_have_queries_of_its_own(tmp_path):
    folder = beir(tmp_path)
    (folder / "qrels" / "train.tsv").write_text("q7\td1\t1\n")
    (folder / "queries.train.jsonl").write_text(as_lines([{"_id": "q7", "text": "money"}]))
    assert load(folder, split="train", candidates={"q7": ["d1"]}).queries == {"q7": "money"}
    with pytest.raises(
        FileNotFoundError, match=r"has no qrels/dev\.tsv, and it holds .*qrels/test\.tsv, qrels/train\.tsv"
    ):
        load(folder, split="dev")


@pytest.mark.parametrize("name", ["scifact", "cosqa", "cranfield"])
def test_a_real_collection_gives_the_published_or_measured_order(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no collection {name} in {DATA}; RERANKX_DATA names another folder")
    dataset = load(DATA / name)
    expected = {"scifact": 0.6762, "cosqa": 0.3202, "cranfield": 0.4911}[name]
    assert evaluate(ids(dataset), dataset.qrels, ["nDCG@10"])["nDCG@10"] == pytest.approx(expected, abs=1e-4)


# What may be odd about files


def test_files_may_be_gzipped_with_mark_and_windows_line_ends(tmp_path):
    plain = load(beir(tmp_path / "a" / "mini"))
    folder = beir(tmp_path / "b" / "mini")
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n"
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
        path.unlink()
    zipped = load(folder)
    assert zipped.first_stage == "BM25"
    assert (zipped.queries, zipped.qrels, zipped.candidates) == (plain.queries, plain.qrels, plain.candidates)


def test_line_separators_within_a_text_end_no_line(tmp_path):
    text = "one\u2028two\u0085three\x0cfour"
    corpus = json.dumps({"_id": "d1", "text": text}, ensure_ascii=False) + "\n" + as_lines(CORPUS[1:])
    assert load(beir(tmp_path, corpus=corpus)).candidates["q1"][0].text == text


def test_ids_that_are_whole_numbers_are_strings(tmp_path):
    folder = beir(
        tmp_path,
        corpus=[{"_id": 1, "text": "x"}],
        queries=[{"_id": 10, "text": "y"}],
        qrels="10\t1\t1\n",
        hits=[{"qid": 10, "hits": [{"docid": 1}]}],
    )
    assert ids(load(folder)) == {"10": ["1"]}


def one_bad(part, line):
    """Return the arguments of `beir` with a second line in the part."""
    first = {"corpus": CORPUS[0], "queries": QUERIES[0], "hits": HITS[0]}[part]
    line = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
    return {part: json.dumps(first).encode() + b"\n" + line + b"\n"}


@pytest.mark.parametrize(
    ("part", "line", "said"),
    [
        ("corpus", {"text": "no id"}, r"corpus\.jsonl, line 2: there is no '_id', only \['text'\]"),
        ("corpus", {"_id": "", "text": "x"}, r"corpus\.jsonl, line 2: _id is '', expected a string that is not blank"),
        ("corpus", {"_id": 1.5, "text": "x"}, r"corpus\.jsonl, line 2: _id is 1\.5"),
        ("corpus", {"_id": True, "text": "x"}, r"corpus\.jsonl, line 2: _id is True"),
        ("corpus", {"_id": "d9"}, r"corpus\.jsonl, line 2: there is no 'text'"),
        ("corpus", {"_id": "d9", "text": None}, r"corpus\.jsonl, line 2: text is None, expected a string"),
        ("corpus", {"_id": "d9", "text": "x", "title": 3}, r"corpus\.jsonl, line 2: title is 3"),
        ("corpus", {"_id": "d1", "text": "other"}, r"corpus\.jsonl, line 2: document 'd1' is there already, with another"),
        ("corpus", "[1]", r"corpus\.jsonl, line 2: expected a JSON object, not \[1\]"),
        ("corpus", '{"_id": "d2", "te', r"corpus\.jsonl, line 2: not JSON \(Unterminated string"),
        ("corpus", "[" * 100_000, r"corpus\.jsonl, line 2: .*cannot be read"),
        ("corpus", '{"_id": "d2", "text": "caf\u00e9"}'.encode("latin-1"), r"line 2: byte 27 \(0xe9\) is not UTF-8"),
        ("queries", {"_id": "q1", "text": "other"}, r"queries\.jsonl, line 2: query 'q1' is there already"),
        ("queries", {"_id": "q2"}, r"queries\.jsonl, line 2: there is no 'text'"),
        ("hits", {"qid": "q2"}, r"BM25\.jsonl, line 2: 'hits' is None, expected a list"),
        ("hits", {"qid": "q2", "hits": ["d1"]}, r"BM25\.jsonl, line 2: 'hits' is \['d1'\], expected a list of objects"),
        ("hits", {"hits": [{"docid": "d1"}]}, r"BM25\.jsonl, line 2: there is no 'qid'"),
        ("hits", {"qid": "q2", "hits": [{"score": 1}]}, r"BM25\.jsonl, line 2: there is no 'docid'"),
        ("hits", {"qid": "q1", "hits": []}, r"line 2: query 'q1' has candidates already, .*BM25\.jsonl, line 1"),
        ("hits", {"qid": "q2", "hits": [{"docid": "d1", "score": "x"}]}, r"line 2: the score of document 'd1' is 'x'"),
        ("hits", '{"qid": "q2", "hits": [{"docid": "d1", "score": NaN}]}', r"line 2: the score .* is nan"),
        ("hits", {"qid": "q2", "hits": [{"docid": "d1", "rank": 1}, {"docid": "d2"}]}, r"line 2: 1 of 2 hits have a rank"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_an_error_with_its_place(tmp_path, part, line, said):
    with pytest.raises(ValueError, match=said):
        load(beir(tmp_path, **one_bad(part, line)))


def test_a_file_in_utf_16_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 1: byte 1 \(0xff\) is not UTF-8; convert"):
        load(beir(tmp_path, queries=as_lines(QUERIES).encode("utf-16")))


def test_a_gzip_file_that_ends_early_is_an_error(tmp_path):
    folder = beir(tmp_path, corpus=None)
    long = "".join(
        json.dumps({"_id": f"x{i}", "text": random.Random(i).randbytes(20).hex()}) + "\n" for i in range(500)
    )
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(long.encode())[:5000])
    with pytest.raises(ValueError, match=r"corpus\.jsonl\.gz, line \d+: the gzip file is broken"):
        load(folder)


def test_a_folder_without_what_is_needed_says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no qrels/test\.tsv, and it is empty; expected BEIR's layout"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere is not there"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere is not there, or no folder"):
        from_beir(tmp_path / "nowhere")
    folder = beir(tmp_path, corpus=None)
    with pytest.raises(FileNotFoundError, match=r"has no corpus\.jsonl, and it holds candidates\.BM25\.jsonl, qrels"):
        load(folder)


def test_a_file_of_another_kind_is_an_error(tmp_path):
    for content in ("qid,text\n", as_lines(CORPUS), '{\n "a": 1\n}', "[]", ""):
        (tmp_path / "odd").write_text(content)
        with pytest.raises(ValueError, match=r"odd: expected a folder in BEIR layout, candidates JSON lines"):
            load(tmp_path / "odd")


def test_candidates_without_judgements_beside_them_are_an_error_of_load(tmp_path):
    (tmp_path / "candidates.jsonl").write_text(as_lines(HITS))
    with pytest.raises(ValueError, match=r"there is no qrels/ beside it: use from_candidates"):
        load(tmp_path / "candidates.jsonl")


def test_candidates_of_candidates_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"BM25\.jsonl holds candidates: pass the folder it is in"):
        load(beir(tmp_path) / "candidates.BM25.jsonl", candidates="bm25")


def test_a_candidate_without_a_text_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"document 'd3', a candidate for query 'q2', is not in .*corpus\.jsonl"):
        load(beir(tmp_path, corpus=CORPUS[:2]))


def test_a_corpus_of_other_documents_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of the documents is in it"):
        load(beir(tmp_path, corpus=[{"_id": "x", "text": "x"}]))


def test_candidates_of_other_queries_are_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"no candidate list for any judged query in it: expected some of \['q1', 'q2'\]"
    ):
        load(beir(tmp_path, hits=[{"qid": "x", "hits": [{"docid": "d1"}]}]))
    with pytest.raises(ValueError, match="no candidate list for any judged query in it"):
        load(beir(tmp_path, hits="x Q0 d1 1 1.0 tag\n"))


def test_queries_that_are_all_others_than_the_judged_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"queries\.jsonl: no query has a text and judgements such as 'q1'"):
        load(beir(tmp_path, queries=[{"_id": "x", "text": "x"}]))


def test_nothing_relevant_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no query has a document of grade 1 or more"):
        load(beir(tmp_path, qrels="q1\td1\t0\nq2\td3\t-1\n"))


# What is odd and handled


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"queries": [*QUERIES, {"_id": "q8", "text": "x"}, {"_id": "q9", "text": "x"}]},
         "queries without judgements, left out: 2, such as query 'q8'"),
        ({"queries": [*QUERIES, QUERIES[0]]}, "a query that is given twice, taken once: 1, such as query 'q1'"),
        ({"qrels": QRELS + "q7\td1\t1\n"}, "judged queries without a text, left out: 1, such as query 'q7'"),
        ({"qrels": QRELS + "q7\td1\t1\n", "queries": [*QUERIES, {"_id": "q7", "text": " "}]},
         "blank queries, left out: 1, such as query 'q7'"),
        ({"qrels": QRELS + "q1\td7\t1\n"},
         "judged documents that are not in the corpus, kept: no order can hold them: 1, such as 'd7'"),
        ({"qrels": QRELS.replace("d2\t0", "d2\t-2")}, "negative grades, which count as 0: 1, such as -2 for query 'q1'"),
        ({"qrels": QRELS + "q1\td1\t2\n"},
         "judgements that are given twice, taken once: 1, such as document 'd1' for query 'q1'"),
        ({"qrels": QRELS.replace("d3\t1", "d3\t0")},
         "queries without a relevant document, kept: every measure of theirs is 0: 1, such as query 'q2'"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "a document that is given twice, taken once: 1, such as document 'd1'"),
        ({"corpus": [*CORPUS[:2], {"_id": "d3", "text": " "}]},
         "first stage: documents without text, kept: 1, such as document 'd3'"),
        ({"hits": [{"qid": "q1", "hits": [{"docid": "d2"}, {"docid": "d1"}, {"docid": "d2"}]}, HITS[1]]},
         "first stage: documents that are listed twice for a query, of which the first was kept: 1, "
         "such as document 'd2' for query 'q1'"),
        ({"hits": [{"qid": "q1", "hits": [{"docid": "d1", "score": 1}, {"docid": "d2", "score": 2}]}, HITS[1]]},
         "first stage: candidate lists whose scores rise, kept in their order: 1, such as that of query 'q1'"),
        ({"hits": HITS[:1]}, "first stage: queries without candidates, kept: they count 0: 1, such as query 'q2'"),
        ({"hits": [{"qid": "q2", "hits": [{"docid": "d2"}]}], "qrels": "q2\td3\t1\n", "queries": QUERIES[1:]},
         "first stage: no candidate is judged, for any query: are the ids of both the same?"),
    ],
)  # fmt: skip
def test_what_is_odd_is_said_and_handled(tmp_path, parts, said):
    assert said == issue(load(beir(tmp_path, **parts)))


def test_a_query_that_is_left_out_is_nowhere_and_one_that_finds_nothing_stays(tmp_path):
    dataset = load(beir(tmp_path, qrels=QRELS + "q7\td1\t1\n", hits=HITS[:1]))
    assert list(dataset.queries) == list(dataset.qrels) == list(dataset.candidates) == ["q1", "q2"]
    assert ids(dataset) == {"q1": ["d1", "d2"], "q2": []}


def test_of_repeated_candidates_the_first_is_kept_and_the_depth_is_filled(tmp_path):
    hits = [{"qid": "q1", "hits": [{"docid": docid} for docid in ("d2", "d2", "d1", "d3")]}]
    assert ids(load(beir(tmp_path, hits=hits), depth=2))["q1"] == ["d2", "d1"]


def test_a_query_that_finds_itself_is_left_out_and_the_depth_is_filled(tmp_path):
    folder = beir(
        tmp_path,
        corpus=[{"_id": "a1", "title": "Cats", "text": "Cats  are GOOD pets."}, *CORPUS],
        queries=[{"_id": "a1", "text": "Cats are good pets."}, {"_id": "d3", "text": "same id by chance"}],
        qrels="a1\td2\t1\nd3\td1\t1\n",
        hits=[
            {"qid": "a1", "hits": [{"docid": docid} for docid in ("a1", "d1", "d2", "d3")]},
            {"qid": "d3", "hits": [{"docid": docid} for docid in ("d3", "d2", "d1")]},
        ],
    )
    dataset = load(folder, depth=2)
    assert ids(dataset) == {"a1": ["d1", "d2"], "d3": ["d3", "d2"]}
    assert issue(dataset) == "first stage: queries that found themselves, which was left out: 1, such as query 'a1'"
    assert ids(load(folder, depth=1, candidates="bm25"))["a1"] == ["d2"]


def test_scores_that_are_equal_do_not_rise(tmp_path):
    hits = [{"qid": "q1", "hits": [{"docid": "d1", "score": 1}, {"docid": "d2", "score": 1}]}, HITS[1]]
    assert load(beir(tmp_path, hits=hits)).issues == ()


# Judgements


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq 1\td 1\t2\nq2\td3\t1\n",
        "q 1\td 1\t2\nq2\td3\t1\n",
        "qid\tdocid\tgrade\r\nq 1\td 1\t2.0\r\n\r\nq2\td3\t+1\r\n",
        "q 1\t0\td 1\t2\nq2\tQ0\td3\t1.\n",
    ],
)
def test_judgements_are_beirs_or_trecs_with_a_header_or_without(tmp_path, content):
    (tmp_path / "qrels").write_bytes(content.encode())
    assert read_qrels(tmp_path / "qrels") == {"q 1": {"d 1": 2}, "q2": {"d3": 1}}


def test_a_header_is_the_first_line_and_no_other(tmp_path):
    (tmp_path / "qrels").write_text("q1\td1\t1\nquery\td2\t1\n")
    assert read_qrels(tmp_path / "qrels") == {"q1": {"d1": 1}, "query": {"d2": 1}}


def test_columns_may_be_parted_by_blanks(tmp_path):
    (tmp_path / "qrels").write_text("19335 0  1017759 0\n19335 0 1082489   -1\n")
    assert read_qrels(tmp_path / "qrels") == {"19335": {"1017759": 0, "1082489": -1}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("q1\td1\t0.5\n", r"qrels, line 1: the grade is '0\.5', expected a whole number"),
        ("q1\td1\t1\nq1\td2\thigh\n", r"qrels, line 2: the grade is 'high'"),
        ("q1\td1\thigh\n", r"qrels, line 1: the grade is 'high'"),
        ("q1\td1\tnan\n", r"line 1: the grade is 'nan'"),
        ("q1\td1\t1e3\n", r"line 1: the grade is '1e3'"),
        ("q1\td1\t1_0\n", r"line 1: the grade is '1_0'"),
        ("q1\td1\t\n", r"line 1: the grade is ''"),
        ("q1\td1\t1\nq1\td1\t2\n", r"line 2: document 'd1' has grade 2 for query 'q1', but 1 in line 1; remove one"),
        ("q1 d1\n", r"line 1: 2 columns, expected 3 \(query, document, grade\) or TREC's 4"),
        ("q1 d1 1\nq1 0 d2 1\n", r"line 2: 4 columns, expected 3, as above"),
        ("q1\t\t1\n", r"line 1: the document id is '', expected a string that is not blank"),
        ("query-id\tcorpus-id\tscore\n", r"qrels: there is no judgement in it"),
        ("", r"qrels: there is no judgement in it"),
    ],
)
def test_judgements_that_cannot_be_used_are_an_error_with_their_place(tmp_path, content, said):
    (tmp_path / "qrels").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_qrels(tmp_path / "qrels")


# TREC


def test_a_run_with_judgements_queries_and_corpus_is_a_dataset(tmp_path):
    files = {
        "run.txt": "q1 Q0 d1 1 1.5 bm25\nq1 Q0 d2 2 2.5 bm25\nq1 Q0 d3 3 1.5 bm25\nq3 Q0 d1 1 9 bm25\n",
        "qrels.txt": "q1 0 d1 1\nq2 0 d3 2\n",
        "queries.tsv": "q1\trefund\r\nq2\twhen\tand how\r\n",
        "corpus.tsv": "d1\tone\nd2\ttwo\nd3\tthree\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode())
    run, qrels, queries, corpus = (tmp_path / name for name in files)
    dataset = from_trec(run, qrels, queries=queries, corpus=corpus)
    assert dataset.candidates["q1"] == (  # as trec_eval: by score, then by id descending
        Candidate("d2", "two", 2.5),
        Candidate("d3", "three", 1.5),
        Candidate("d1", "one", 1.5),
    )
    assert (dataset.queries["q2"], dataset.name, dataset.first_stage) == ("when\tand how", "run", "run.txt")
    same = from_trec(
        {"q1": {"d1": 1.5, "d2": 2.5, "d3": 1.5}},
        {"q1": {"d1": 1}, "q2": {"d3": 2}},
        queries={"q1": "refund", "q2": "when\tand how"},
        corpus={"d1": "one", "d2": "two", "d3": "three"},
    )
    assert (same.queries, same.qrels, same.candidates) == (dataset.queries, dataset.qrels, dataset.candidates)


def test_ids_of_mappings_that_are_whole_numbers_are_strings():
    for run in ({1: [2]}, {1: {2: 0.5}}):
        assert ids(from_trec(run, {1: {2: 1}}, queries={1: "x"}, corpus={2: "x"})) == {"1": ["2"]}


def test_a_run_without_texts_anywhere_is_an_error():
    with pytest.raises(ValueError, match="'d1', a candidate for query 'q1', came without a text; pass corpus="):
        from_trec({"q1": ["d1"]}, {"q1": {"d1": 1}}, queries={"q1": "x"})


@pytest.mark.parametrize("grade", [0.5, "x", None, float("nan"), float("inf")])
def test_a_grade_in_a_mapping_is_checked_too(grade):
    with pytest.raises(ValueError, match="qrels of query 'q1': the grade is"):
        from_trec({"q1": ["d1"]}, {"q1": {"d1": grade}}, queries={"q1": "x"}, corpus={"d1": "x"})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q1 Q0 d2 2 1.0", "line 2: 5 columns, expected TREC's 6"),
        ("q1 Q0 d2 2 high tag", "line 2: the score is 'high'"),
        ("q1 Q0 d2 2 nan tag", "line 2: the score is 'nan'"),
        ("q1 Q0 d1 2 1.0 tag", "line 2: document 'd1' is there twice"),
    ],
)
def test_a_line_of_a_run_that_cannot_be_used_is_an_error_with_its_place(tmp_path, line, said):
    (tmp_path / "run").write_text(f"q1 Q0 d1 1 2.0 tag\n{line}\n")
    with pytest.raises(ValueError, match=said):
        read_run(tmp_path / "run")
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="no line"):
        read_run(tmp_path / "run")


names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)


@given(st.dictionaries(names, st.lists(names, unique=True, min_size=1, max_size=9), min_size=1, max_size=4))
def test_a_run_that_is_written_is_read_in_its_order(tmp_path_factory, rankings):
    path = tmp_path_factory.mktemp("run") / "run.txt"
    write_run(rankings, path, tag="mine")
    assert {qid: list(scores) for qid, scores in read_run(path).items()} == rankings


def test_a_written_run_has_falling_scores_and_ranks_from_one(tmp_path):
    write_run({"q1": ["d9", "d1"], "q2": ["d3"]}, tmp_path / "run", tag="mine")
    assert (tmp_path / "run").read_text() == "q1 Q0 d9 1 2 mine\nq1 Q0 d1 2 1 mine\nq2 Q0 d3 1 1 mine\n"


@pytest.mark.parametrize(
    ("rankings", "tag", "said"),
    [
        ({"q 1": ["d1"]}, "t", "query id 'q 1' holds a blank"),
        ({"q1": ["d\t1"]}, "t", "document id 'd.*1' holds a blank"),
        ({"q1": ["d1", ""]}, "t", "document id.* not blank"),
        ({"q1": ["d1"]}, "my run", "tag 'my run' holds a blank"),
        ({"q1": ["d1", "d1"]}, "t", "'q1' must be a list of document ids, each once"),
        ({"q1": ["d\ud800"]}, "t", "surrogates not allowed"),
        ({"q1": "d1"}, "t", "'q1' must be a list of document ids, each once"),
    ],
)
def test_what_a_run_cannot_hold_is_an_error_and_nothing_is_written(tmp_path, rankings, tag, said):
    with pytest.raises(ValueError, match=said):
        write_run({"q0": ["d1"], **rankings}, tmp_path / "run", tag=tag)
    assert not (tmp_path / "run").exists()


# ir-measures 0.4.3 reads its measures' names with ast.Num, which Python 3.12 warns of.
@pytest.mark.filterwarnings(
    r"ignore:ast\.(Num|Str|NameConstant) is deprecated:DeprecationWarning",
    r"ignore:Attribute [ns] is deprecated:DeprecationWarning",
)
def test_ir_measures_reads_a_written_run_as_we_do(tmp_path):
    measures = pytest.importorskip("ir_measures")
    rankings = {"q1": ["d2", "d1", "d3"], "q2": ["d1", "d3"]}
    qrels = {"q1": {"d1": 2, "d3": 1}, "q2": {"d3": 1}}
    write_run(rankings, tmp_path / "run", tag="mine")
    theirs = measures.calc_aggregate([measures.nDCG @ 10], qrels, measures.read_trec_run(str(tmp_path / "run")))
    assert evaluate(rankings, qrels, ["nDCG@10"])["nDCG@10"] == pytest.approx(theirs[measures.nDCG @ 10])


# Candidates JSON lines

RANK_LLM = {
    "query": {"text": "how long is life cycle of flea", "qid": 264014},
    "candidates": [
        {"docid": "d7", "score": 15.8, "doc": {"text": "A flea can live up to a year.", "title": "Fleas"}},
        {"docid": 8, "score": 14.2, "doc": {"segment": "20 days."}},
        {"docid": "d9", "score": 13.9, "doc": {"contents": "Pupae wait."}},
    ],
}
OLDER = {
    "query": "how long is life cycle of flea",
    "hits": [
        {"content": "20 days.", "qid": 264014, "docid": "8", "rank": 2, "score": 14.2},
        {"content": "A flea can live up to a year.", "qid": 264014, "docid": "d7", "rank": 1, "score": 15.8},
    ],
}


@pytest.mark.parametrize("way", ["lines", "list", "indented list"])
def test_rank_llms_candidates_bring_their_texts(tmp_path, way):
    path = tmp_path / "retrieve_results.json"
    content = (
        as_lines([RANK_LLM]) if way == "lines" else json.dumps([RANK_LLM], indent=2 if "indented" in way else None)
    )
    path.write_text(content)
    dataset = from_candidates(path, qrels={"264014": {"8": 1}})
    assert dataset.queries == {"264014": "how long is life cycle of flea"}
    assert dataset.candidates["264014"] == (
        Candidate("d7", "Fleas A flea can live up to a year.", 15.8),
        Candidate("8", "20 days.", 14.2),
        Candidate("d9", "Pupae wait.", 13.9),
    )
    assert dataset.issues == ()


def test_rank_llms_older_candidates_are_ordered_by_rank(tmp_path):
    (tmp_path / "hits.jsonl").write_text(as_lines([OLDER]))
    dataset = from_candidates(tmp_path / "hits.jsonl", qrels={"264014": {"8": 1}})
    assert [(one.docid, one.text) for one in dataset.candidates["264014"]] == [
        ("d7", "A flea can live up to a year."),
        ("8", "20 days."),
    ]


def test_a_document_that_is_a_string_may_hold_what_an_index_held(tmp_path):
    docs = ["plain", json.dumps({"id": "b", "title": "T", "contents": "inner"}), "{not json"]
    record = {"qid": "q", "query": "x", "hits": [{"docid": str(i), "doc": doc} for i, doc in enumerate(docs)]}
    (tmp_path / "hits.jsonl").write_text(as_lines([record]))
    dataset = from_candidates(tmp_path / "hits.jsonl")
    assert [one.text for one in dataset.candidates["q"]] == ["plain", "T inner", "{not json"]


def test_texts_and_queries_may_come_from_elsewhere(tmp_path):
    (tmp_path / "hits.jsonl").write_text(
        as_lines([{"qid": "q1", "hits": [{"docid": "d1"}, {"docid": "d2", "text": "own"}]}])
    )
    with pytest.raises(ValueError, match=r"hits\.jsonl: query 'q1' has no text; pass queries="):
        from_candidates(tmp_path / "hits.jsonl", qrels={"q1": {"d1": 1}})
    with pytest.raises(ValueError, match="'d1', a candidate for query 'q1', came without a text; pass corpus="):
        from_candidates(tmp_path / "hits.jsonl", queries={"q1": "x"})
    dataset = from_candidates(
        tmp_path / "hits.jsonl", qrels={"q1": {"d1": 1}}, queries={"q1": "x"}, corpus={"d1": "one", "d2": "two"}
    )
    assert [one.text for one in dataset.candidates["q1"]] == ["one", "own"]


def test_without_judgements_all_queries_are_kept_and_it_is_said(tmp_path):
    (tmp_path / "hits.jsonl").write_text(as_lines([RANK_LLM]))
    dataset = from_candidates(tmp_path / "hits.jsonl")
    assert dataset.qrels == {"264014": {}}
    assert issue(dataset) == "nothing is judged: no measure can be taken"


def test_a_text_in_many_lists_is_held_once(tmp_path):
    records = [{"qid": str(i), "query": "x", "hits": [{"docid": "d", "text": "a long text"}]} for i in range(2)]
    (tmp_path / "hits.jsonl").write_text(as_lines(records))
    dataset = from_candidates(tmp_path / "hits.jsonl")
    assert dataset.candidates["0"][0].text is dataset.candidates["1"][0].text


def test_a_document_may_have_another_text_in_another_list(tmp_path):
    records = [{"qid": str(i), "query": "x", "hits": [{"docid": "d", "text": f"chunk {i}"}]} for i in range(2)]
    (tmp_path / "hits.jsonl").write_text(as_lines(records))
    assert from_candidates(tmp_path / "hits.jsonl").candidates["1"][0].text == "chunk 1"


# LlamaIndex's QA dataset

QA = {
    "queries": {"u1": "When are parcels sent?", "u2": "Who sleeps?"},
    "corpus": {"n1": "Parcels are sent on Mondays.", "n2": "Cats sleep all day.", "n3": "Refunds take ten days."},
    "relevant_docs": {"u1": ["n1"], "u2": ["n2"]},
    "mode": "text",
}


@pytest.mark.parametrize("indent", [None, 4])
def test_llama_indexs_qa_dataset_is_searched_by_bm25(tmp_path, indent):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    (tmp_path / "qa.json").write_text(json.dumps(QA, indent=indent))
    dataset = load(tmp_path / "qa.json")
    assert dataset == from_llama_index(tmp_path / "qa.json")
    assert dataset.qrels == {"u1": {"n1": 1}, "u2": {"n2": 1}}
    assert ids(dataset) == {"u1": ["n1"], "u2": ["n2"]}
    assert dataset.candidates["u1"][0].text == "Parcels are sent on Mondays."
    assert (dataset.name, dataset.first_stage) == ("qa", "bm25s")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"queries": None}, "no object 'queries'"),
        ({"relevant_docs": {"u1": "n1"}}, "relevant_docs of query 'u1' is 'n1', expected a list"),
        ({"mode": "image"}, "mode is 'image'"),
        ({"corpus": {"n1": 3}}, "corpus of id 'n1': the text is 3"),
        ({"relevant_docs": {}}, "qrels is empty"),
        ({"relevant_docs": {"u1": []}}, r"qa\.json: no query has a document of grade 1"),
        ({"relevant_docs": {"u9": ["n1"]}}, r"qa\.json: no query has a text and judgements such as 'u9'"),
    ],
)
def test_a_qa_dataset_that_cannot_be_used_is_an_error(tmp_path, change, said):
    (tmp_path / "qa.json").write_text(json.dumps(QA | change))
    with pytest.raises(ValueError, match=said):
        from_llama_index(tmp_path / "qa.json", candidates="bm25" if "corpus" in change else {"u1": ["n1"]})


def test_json_that_ends_early_is_an_error(tmp_path):
    (tmp_path / "qa.json").write_text(json.dumps(QA, indent=4)[:100])
    with pytest.raises(ValueError, match=r"qa\.json: not JSON \(.*line \d"):
        load(tmp_path / "qa.json")


# Tables

ROWS = [
    {"query": "refund", "text": "Cats sleep.", "grade": 0, "id": "a", "doc": "d2", "score": 1.0},
    {"query": "refund", "text": "Paid back.", "grade": 2, "id": "a", "doc": "d1", "score": 3.0},
    {"query": "refund", "text": "Mondays.", "grade": None, "id": "a", "doc": "d3", "score": 2.0},
    {"query": "parcels", "text": "Mondays.", "grade": 1, "id": "b", "doc": "d3", "score": None},
    {"query": "parcels", "text": "Paid back.", "grade": 0, "id": "b", "doc": "d1", "score": 1.0},
]


def columns():
    return {name: [row[name] for row in ROWS] for name in ROWS[0]}


def pandas_table():
    return pytest.importorskip("pandas").DataFrame(ROWS)


def nullable_pandas_table():
    return pytest.importorskip("pandas").DataFrame(ROWS).convert_dtypes()


def arrow_table():
    return pytest.importorskip("pyarrow").table(columns())


@pytest.mark.parametrize("table", [lambda: ROWS, columns, pandas_table, nullable_pandas_table, arrow_table])
def test_a_table_of_any_kind_is_a_dataset(table):
    plain = from_table(table())
    assert plain.queries == {"q1": "refund", "q2": "parcels"}
    assert plain.qrels == {"q1": {"d1": 0, "d2": 2}, "q2": {"d3": 1, "d2": 0}}
    assert ids(plain) == {"q1": ["d1", "d2", "d3"], "q2": ["d3", "d2"]}
    assert plain.candidates["q1"][1] == Candidate("d2", "Paid back.")

    named = from_table(table(), qid="id", docid="doc", score="score", name="mine")
    assert named.qrels == {"a": {"d2": 0, "d1": 2}, "b": {"d3": 1, "d1": 0}}
    assert ids(named) == {"a": ["d1", "d3", "d2"], "b": ["d1"]}  # what has no score was not found
    assert (named.name, named.first_stage, named.issues) == ("mine", "column 'score'", ())


def test_grades_of_a_table_may_be_true_and_false_and_floats():
    rows = [
        {"query": "x", "text": str(i), "grade": grade} for i, grade in enumerate((True, False, 2.0, "3", float("nan")))
    ]
    assert from_table(rows).qrels == {"q1": {"d1": 1, "d2": 0, "d3": 2, "d4": 3}}


def test_values_of_a_table_may_be_numpys():
    numpy = pytest.importorskip("numpy")
    columns = {"query": numpy.array(["x", "x"]), "text": ["a", "b"], "grade": [numpy.int64(2), numpy.bool_(True)]}
    assert from_table(columns).qrels == {"q1": {"d1": 2, "d2": 1}}


def test_a_table_without_grades_is_not_judged():
    dataset = from_table(ROWS, grade=None)
    assert dataset.qrels == {"q1": {}, "q2": {}}
    assert issue(dataset) == "nothing is judged: no measure can be taken"


def test_queries_of_a_table_that_are_blank_or_not_judged_are_left_out():
    rows = [*ROWS, {"query": " ", "text": "x", "grade": 1}, {"query": "new", "text": "x", "grade": None}]
    dataset = from_table(rows)
    assert list(dataset.queries.values()) == ["refund", "parcels"]
    assert dataset.issues == (
        "rows with a blank query, left out: 1, such as row 5",
        "queries without judgements, left out: 1, such as query 'q3'",
    )


def test_the_columns_of_a_table_are_named():
    rows = [{"question": "x", "passage": "y", "label": 1}]
    assert from_table(rows, query="question", text="passage", grade="label").qrels == {"q1": {"d1": 1}}
    with pytest.raises(ValueError, match="no column 'query', only question, passage, label"):
        from_table(rows)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"grade": 0.5}, r"row 5 of the table: the grade is 0\.5"),
        ({"grade": "high"}, "row 5 of the table: the grade is 'high'"),
        ({"text": None}, "row 5 of the table: column 'text' is None, expected a string"),
        ({"query": "other"}, "row 5 of the table: query 'a' has another text above"),
        ({"text": "other"}, "row 5 of the table: document 'd1' has another text above"),
        ({"grade": 1}, "row 5 of the table: document 'd1' has grade 1 for query 'a', but 2"),
        ({"score": "x"}, "row 5 of the table: column 'score' is 'x'"),
        ({"doc": None}, "row 5 of the table: column 'doc' is None"),
    ],
)
def test_a_row_that_cannot_be_used_is_an_error_with_its_place(row, said):
    with pytest.raises(ValueError, match=said):
        from_table([*ROWS, ROWS[1] | row], qid="id", docid="doc", score="score")


def test_columns_of_a_table_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="column 'text' has 1 rows, but column 'query' has 2"):
        from_table({"query": ["a", "b"], "text": ["x"], "grade": [1, 1]})
    frame = pytest.importorskip("pandas").DataFrame([["a", "x", 1, 2]], columns=["query", "text", "grade", "grade"])
    with pytest.raises(ValueError, match="several columns 'grade'"):
        from_table(frame)


def test_a_table_without_rows_or_relevance_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        from_table({"query": [], "text": [], "grade": []})
    with pytest.raises(ValueError, match="the table: no query has a document of grade 1 or more"):
        from_table([{"query": "x", "text": "y", "grade": 0}])


@pytest.mark.parametrize("table", [3, "table.csv", ["a"], None])
def test_what_is_no_table_is_a_type_error(table):
    with pytest.raises(TypeError, match="a table"):
        from_table(table)


# Retrievers


def judged():
    return from_trec(
        {}, {"q1": {"d1": 1}, "q2": {"d3": 1}}, queries={"q1": "refund", "q2": "parcels"}, corpus={d["_id"]: "x" for d in CORPUS}
    )  # fmt: skip


PASSAGES = {d["_id"]: d["text"] for d in CORPUS}


def test_a_function_is_asked_once_per_query_and_cut_to_depth():
    asked = []

    def search(query):
        asked.append(query)
        return ((docid, text, -i) for i, (docid, text) in enumerate(PASSAGES.items()))

    dataset = with_retriever(judged(), search, depth=2)
    assert asked == ["refund", "parcels"]
    assert dataset.candidates["q1"] == (
        Candidate("d1", "Paid back in ten days.", 0.0),
        Candidate("d2", "Cats sleep.", -1.0),
    )
    assert dataset.first_stage == "search"


def test_issues_of_the_old_first_stage_go_and_others_stay():
    before = from_trec(
        {"q1": ["d1", "d1"]}, {"q1": {"d1": 1}, "q2": {"d3": -1}}, queries={"q1": "a", "q2": "b"}, corpus={"d1": "x", "d3": "y"}
    )  # fmt: skip
    assert len(before.issues) == 4
    after = with_retriever(before, lambda _: [("d1", "x")])
    assert [issue.split(",")[0] for issue in after.issues] == ["negative grades", "queries without a relevant document"]


def test_chunks_of_one_document_are_one_candidate_and_it_is_said():
    dataset = with_retriever(judged(), lambda _: [("d1", "first chunk"), ("d1", "second chunk"), ("d3", "x")])
    assert [one.text for one in dataset.candidates["q1"]] == ["first chunk", "x"]
    assert "listed twice for a query, of which the first was kept: 2" in issue(dataset)


def test_ids_that_no_judgement_knows_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="no document that was found is judged"):
        load(beir(tmp_path), candidates=lambda _: [("0", "x")])
    with pytest.raises(
        ValueError, match="no document that was found is judged: found are ids such as '0', judged such as 'd1'"
    ):
        with_retriever(judged(), lambda _: [("0", "x")])


def test_a_retriever_that_finds_nothing_is_said():
    assert "queries without candidates, kept: they count 0: 2" in issue(with_retriever(judged(), lambda _: []))


def test_an_error_of_the_retriever_says_which_query():
    def broken(query):
        raise ConnectionError("away")

    with pytest.raises(ConnectionError, match="away") as caught:
        with_retriever(judged(), broken)
    assert caught.value.__notes__ == ["raised by the retriever broken for query 'q1'"]


async def waiting(query):
    return [("d1", query)]


@pytest.mark.parametrize(
    ("retriever", "said"),
    [
        (3, "a retriever must be LangChain's"),
        (dict, "a retriever must be LangChain's"),
        (waiting, "is awaitable; pass a retriever that is not asynchronous"),
        (lambda _: None, "is NoneType, expected a list"),
        (lambda _: "d1", "is str, expected a list"),
        (lambda _: ["d1"], r"has 'd1' in it, expected \(docid, text\)"),
        (lambda _: [("d1", 2)], r"has \('d1', 2\) in it, expected \(docid, text\)"),
    ],
)
def test_what_is_no_retriever_is_a_type_error(retriever, said):
    with pytest.raises(TypeError, match=said):
        with_retriever(judged(), retriever)


def test_a_function_takes_no_id_of():
    with pytest.raises(TypeError, match="id_of is for documents and nodes"):
        with_retriever(judged(), lambda _: [("d1", "x")], id_of=str)


def vector(text):
    """Return which of a few words are in it: texts that share one are near, and it needs no model."""
    return [float(word in text.lower()) + 0.01 for word in ("paid", "days", "cats", "parcels", "mondays")]


def test_a_retriever_of_langchain_is_the_first_stage(tmp_path):
    documents = pytest.importorskip("langchain_core.documents", reason="needs: pip install 'rerankx[langchain]'")
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    class Letters(Embeddings):
        def embed_documents(self, texts):
            return [vector(text) for text in texts]

        def embed_query(self, text):
            return vector(text)

    store = InMemoryVectorStore(Letters())
    store.add_documents(
        [documents.Document(text, id=docid, metadata={"page": f"p-{docid}"}) for docid, text in PASSAGES.items()]
    )
    retriever = store.as_retriever(search_kwargs={"k": 2})
    dataset = with_retriever(judged(), retriever)
    found = retriever.invoke("parcels")
    assert [(one.docid, one.text) for one in dataset.candidates["q2"]] == [(d.id, d.page_content) for d in found]
    assert dataset.candidates["q2"][0] == Candidate("d3", "Parcels are sent on Mondays.")
    assert dataset.first_stage == "VectorStoreRetriever"
    assert ids(with_retriever(judged(), retriever, id_of=lambda d: d.metadata["page"][2:])) == ids(dataset)
    assert load(beir(tmp_path, hits=None), candidates=retriever).candidates["q1"] == dataset.candidates["q1"]


def test_documents_of_langchain_without_an_id_are_an_error():
    documents = pytest.importorskip("langchain_core.documents", reason="needs: pip install 'rerankx[langchain]'")
    from langchain_core.runnables import RunnableLambda

    retriever = RunnableLambda(lambda _: [documents.Document("x")])
    with pytest.raises(ValueError, match="a document's id is None; pass id_of="):
        with_retriever(judged(), retriever)


# Said by langchain-community, which LlamaIndex imports where it is installed.
@pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
def test_a_retriever_of_llama_index_is_the_first_stage():
    pytest.importorskip("llama_index.core", reason="needs: pip install 'rerankx[llamaindex]'")
    from llama_index.core import VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.schema import TextNode

    class Letters(BaseEmbedding):
        def _get_query_embedding(self, query):
            return vector(query)

        async def _aget_query_embedding(self, query):
            return vector(query)

        def _get_text_embedding(self, text):
            return vector(text)

    nodes = [TextNode(text=text, id_=f"n-{docid}", metadata={"source": docid}) for docid, text in PASSAGES.items()]
    retriever = VectorStoreIndex(nodes, embed_model=Letters()).as_retriever(similarity_top_k=2)
    with pytest.raises(ValueError, match="no document that was found is judged: found are ids such as 'n-d"):
        with_retriever(judged(), retriever)
    dataset = with_retriever(judged(), retriever, id_of=lambda node: node.metadata["source"])
    found = retriever.retrieve("parcels")
    assert [(one.docid, one.score) for one in dataset.candidates["q2"]] == [
        (n.metadata["source"], n.score) for n in found
    ]
    # As rerankers of LlamaIndex read a node: with the metadata that an embedding sees.
    assert dataset.candidates["q2"][0].text == "source: d3\n\nParcels are sent on Mondays."
    assert len(dataset.candidates["q2"]) == 2


# BM25


def test_without_a_first_stage_bm25_is_run(tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    dataset = load(beir(tmp_path, hits=None))
    assert ids(dataset) == {"q1": ["d1"], "q2": ["d3"]}
    assert dataset.first_stage == "bm25s"
    assert dataset.candidates["q1"][0].score > 0


@pytest.mark.parametrize("text", ["", "the", "x"])
def test_bm25_finds_nothing_where_no_word_is_shared(text):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    for corpus in ({"d1": text}, {"d1": text, "d2": "cats"}):
        dataset = from_trec("bm25", {"q1": {"d1": 1}}, queries={"q1": "the parcels"}, corpus=corpus)
        assert ids(dataset) == {"q1": []}


def test_without_a_first_stage_and_bm25_it_is_said_what_to_pass(tmp_path):
    code = f"""
import sys
sys.modules["bm25s"] = sys.modules["Stemmer"] = None
from rerankx.evaluation.datasets import load
load({str(beir(tmp_path, hits=None))!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert MissingDependencyError.__name__ in done.stderr
    assert (
        "needs bm25s, Stemmer, not installed here: pip install 'rerankx[evaluation]' (or pass candidates="
        in done.stderr
    )


# Size


def test_of_a_large_corpus_only_the_candidates_are_held(tmp_path):
    folder = beir(
        tmp_path, corpus=None, qrels="q1\tx7\t1\n", hits=[{"qid": "q1", "hits": [{"docid": "x7"}, {"docid": "x9"}]}]
    )
    with (folder / "corpus.jsonl").open("w") as file:
        for i in range(5_000):
            file.write(f'{{"_id": "x{i}", "title": "", "text": "{i:010}{"word " * 2000}"}}\n')
    assert (folder / "corpus.jsonl").stat().st_size > 50_000_000
    tracemalloc.start()
    try:
        dataset = load(folder)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ids(dataset)["q1"] == ["x7", "x9"]
    assert most < 2_000_000
    assert held < 200_000


def test_importing_it_loads_no_third_party():
    code = "import sys; before = set(sys.modules); import rerankx.evaluation.datasets; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    tops = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert tops == {"rerankx"}


def test_a_dataset_with_a_candidate_twice_or_a_score_that_is_none_is_refused():
    one = Candidate("d1", "text", 1.0)
    with pytest.raises(ValueError, match=r"document 'd1' is twice among the candidates of query 'q'"):
        Dataset("made up", {"q": "a"}, {"q": {}}, {"q": [one, one]})
    with pytest.raises(ValueError, match=r"the score of 'd1' for query 'q' is nan"):
        Dataset("made up", {"q": "a"}, {"q": {}}, {"q": [Candidate("d1", "text", float("nan"))]})


def test_another_first_stage_does_not_forget_who_judged():
    data = Dataset("made up", {"q": "a"}, {"q": {"d": 1}}, {"q": [Candidate("d", "x")]}, labelled_by="judge:m")
    assert with_retriever(data, lambda query: [("d", "x")]).labelled_by == "judge:m"


@pytest.mark.parametrize("scores", [(1.0, 2.0), (2.0, None)])
def test_scores_that_do_not_go_along_with_the_order_are_none(scores):
    found = [Candidate(f"d{i}", "x", score) for i, score in enumerate(scores)]
    assert not Dataset("made up", {"q": "a"}, {"q": {}}, {"q": found}).scored
    assert Dataset("made up", {"q": "a"}, {"q": {}}, {"q": found[:1]}).scored


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_spreadsheet_with_an_empty_grade_has_a_row_that_is_not_judged(tmp_path, name, separator):
    rows = [["query", "text", "grade", "note"], ["a", "one", "1", "x"], ["a", "two", "", ""], ["a", "three", "0"]]
    (tmp_path / name).write_text("\r\n".join(map(separator.join, rows)), encoding="utf-8-sig")
    dataset = load(tmp_path / name)
    assert [len(found) for found in dataset.candidates.values()] == [3]
    assert sorted(next(iter(dataset.qrels.values())).values()) == [0, 1]
    (tmp_path / name).write_text("query,text\n")
    with pytest.raises(ValueError, match="has no rows"):
        load(tmp_path / name)
