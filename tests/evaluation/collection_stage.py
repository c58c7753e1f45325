"""The help centre that ships, written out as a collection of one's own."""

import json

from rerankx import demo


def write_collection(folder):
    """Write a folder in BEIR layout, with the candidates of keyword search."""
    data = demo.dataset()
    (folder / "qrels").mkdir(parents=True)
    lines(folder / "corpus.jsonl", [{"_id": passage.id, "text": passage.text} for passage in demo.passages()])
    lines(folder / "queries.jsonl", [{"_id": qid, "text": text} for qid, text in data.queries.items()])
    rows = [f"{qid}\t{docid}\t{grade}" for qid, grades in data.qrels.items() for docid, grade in grades.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]), "utf-8")
    found = [
        {"qid": qid, "hits": [{"docid": one.docid, "rank": i} for i, one in enumerate(hits, 1)]}
        for qid, hits in data.candidates.items()
    ]
    lines(folder / "candidates.words.jsonl", found)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
