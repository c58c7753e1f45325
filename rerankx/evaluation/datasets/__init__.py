"""What rerankers are measured on: queries, judgements, and a first stage's candidates with their texts.

    dataset = load("scifact")                                   # a folder in BEIR layout, or a file
    dataset = load("scifact", candidates=my_retriever)          # its candidates from a retriever of either framework
    dataset = from_trec("run.txt", "qrels.txt", queries="queries.tsv", corpus="corpus.jsonl")
    dataset = from_table(frame, query="question", text="passage", grade="label")

Files are UTF-8, with or without a byte order mark, with any line ends, and may be gzipped. They are read line by line: of a
corpus only the texts of candidates are kept, unless BM25 has to be run over all of it.

What cannot be used is a ValueError that names file and line (FileNotFoundError, if there is no file). What can be used although
it is odd is in `Dataset.issues`, with what was done about it; what says "first stage" there concerns the candidates.

Shared by every reader:
    candidates: The first stage. A file of candidates JSON lines or a TREC run; a mapping from query id to document ids, best
        first, or to scores by document id; a retriever as in `with_retriever`; "bm25"; or None, which is what `from_beir` says.
    depth: How many candidates per query are kept, at least 1.
    name: What reports call it; None is the file's or the folder's name.
Ids are strings, and whole numbers are taken for strings. Title and text are joined as "title text".
"""

from rerankx.evaluation.datasets.dataset import Candidate, Dataset
from rerankx.evaluation.datasets.judgements import read_qrels
from rerankx.evaluation.datasets.retrieved import Retriever, with_retriever
from rerankx.evaluation.datasets.runs import read_run, write_run
from rerankx.evaluation.datasets.sources import from_beir, from_candidates, from_llama_index, from_trec, load
from rerankx.evaluation.datasets.tables import from_table

__all__ = [
    "Candidate",
    "Dataset",
    "Retriever",
    "from_beir",
    "from_candidates",
    "from_llama_index",
    "from_table",
    "from_trec",
    "load",
    "read_qrels",
    "read_run",
    "with_retriever",
    "write_run",
]
