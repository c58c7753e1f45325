"""Cross-encoders on the hub."""

from collections.abc import Mapping

from rerankx.catalogue.cards import CrossEncoderCard, Golden, Published

HUB = "https://huggingface.co"
SBERT = "https://www.sbert.net/docs/cross_encoder/pretrained_models.html"
FASTEMBED = "https://github.com/qdrant/fastembed/blob/main/tests/test_text_cross_encoder.py"
BGE = "https://github.com/FlagOpen/FlagEmbedding/tree/master/research/llm_reranker"
NDCG = "nDCG@10"
BM25 = "BM25, top 100"
LEXICAL = "BM25 (Lucene), top 100"
BGE_DENSE = "bge-large-en-v1.5 (dense), top 100"
QWEN_DENSE = "Qwen3-Embedding-0.6B (dense), top 100"
UNSTATED = "not stated"


def _marco(dl19: float, mrr: float) -> tuple[Published, ...]:
    """Return the two figures that the provider's table has for a model trained on MS MARCO."""
    official = "MS MARCO's official candidates, about 1,000 passages a query"
    return (
        Published("TREC DL19", NDCG, dl19, official, SBERT),
        Published("MS MARCO dev", "MRR@10", mrr, official, SBERT),
    )


def _beir(first_stage: str, source: str, **values: float) -> tuple[Published, ...]:
    """Return figures on sets of BEIR that stand on one page, all over one first stage."""
    names = {"scifact": "SciFact", "nfcorpus": "NFCorpus", "fiqa": "FiQA", "trec_covid": "TREC-COVID"}
    names |= {"scidocs": "SCIDOCS", "nq": "NQ", "hotpotqa": "HotpotQA"}
    return tuple(Published(f"BEIR {names[name]}", NDCG, value, first_stage, source) for name, value in values.items())


def _capital(*logits: float, tolerance: float = 1e-3) -> Golden:
    """Return the logits that fastembed's tests expect; its own tolerance is 1e-3."""
    return Golden(
        query="What is the capital of France?",
        texts=("Paris is the capital of France.", "Berlin is the capital of Germany."),
        logits=logits,
        tolerance=tolerance,
        source=FASTEMBED,
    )


M3_CARD = f"{HUB}/juanluisdb/MiniLM-L-6-rerank-m3"
JINA_V1_CARD = f"{HUB}/jinaai/jina-reranker-v1-tiny-en"
MXBAI_V1 = f"{HUB}/mixedbread-ai/mxbai-rerank-large-v1"
MXBAI_DOCS = "https://www.mixedbread.com/docs/reranking/models"
MXBAI_V2 = "https://github.com/mixedbread-ai/mxbai-rerank"
ARXIV = "https://arxiv.org/abs/2508.16757"

# Their config asks for no activation. The provider's recipe distils the scores of larger cross-encoders, so that no objective
# says what a sigmoid of theirs means; but its page of models reads that sigmoid as a score from 0 to 1.
_MS_MARCO = (
    CrossEncoderCard(
        model="cross-encoder/ms-marco-TinyBERT-L2-v2",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=4_386_049,
        megabytes=18,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="identity",
        scale="logit",
        source=f"{HUB}/cross-encoder/ms-marco-TinyBERT-L2-v2",
        published=_marco(0.6984, 0.3256),
        note="The fastest here, and the weakest: for many candidates under a tight limit of time.",
    ),
    CrossEncoderCard(
        model="cross-encoder/ms-marco-MiniLM-L2-v2",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=15_615_745,
        megabytes=62,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="identity",
        scale="logit",
        source=f"{HUB}/cross-encoder/ms-marco-MiniLM-L2-v2",
        published=_marco(0.7101, 0.3485),
        note="Two layers: between TinyBERT-L2 and MiniLM-L4.",
    ),
    CrossEncoderCard(
        model="cross-encoder/ms-marco-MiniLM-L4-v2",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=19_164_673,
        megabytes=77,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="identity",
        scale="logit",
        source=f"{HUB}/cross-encoder/ms-marco-MiniLM-L4-v2",
        published=_marco(0.7304, 0.3770),
        note="Four layers: most of MiniLM-L6's quality on web questions.",
    ),
    CrossEncoderCard(
        model="cross-encoder/ms-marco-MiniLM-L6-v2",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=22_713_601,
        megabytes=91,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="identity",
        scale="logit",
        source=f"{HUB}/cross-encoder/ms-marco-MiniLM-L6-v2",
        published=(
            *_marco(0.7430, 0.3901),
            *_beir(
                BM25,
                M3_CARD,
                scifact=0.688,
                nfcorpus=0.349,
                fiqa=0.349,
                trec_covid=0.741,
                scidocs=0.164,
                nq=0.523,
                hotpotqa=0.724,
            ),
        ),
        golden=_capital(8.500708, -2.541011),
        note="Good on web questions in English; outside them a list from a strong retriever can get worse: measure.",
    ),
    CrossEncoderCard(
        model="cross-encoder/ms-marco-MiniLM-L12-v2",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=33_360_385,
        megabytes=133,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="identity",
        scale="logit",
        source=f"{HUB}/cross-encoder/ms-marco-MiniLM-L12-v2",
        published=_marco(0.7431, 0.3902),
        golden=_capital(9.330912, -2.0380247),
        note="Published as no better than MiniLM-L6, at half its speed.",
    ),
)

# Trained by a softmax over the texts of one query, so that a sigmoid of theirs is no probability by training; but the
# provider maps the score to [0, 1] by it. FlagEmbedding gives the bare logit unless normalize=True.
_BGE = (
    CrossEncoderCard(
        model="BAAI/bge-reranker-base",
        licence="MIT",
        commercial_use=True,
        languages="Chinese and English",
        parameters=278_044_417,
        megabytes=1112,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="identity",
        scale="logit",
        source=f"{HUB}/BAAI/bge-reranker-base",
        published=(
            Published("BEIR, mean of 11 sets", NDCG, 0.416, LEXICAL, MXBAI_V1),
            Published("BEIR, mean of 17 sets", NDCG, 0.4789, UNSTATED, JINA_V1_CARD),
        ),
        golden=_capital(6.15733, -3.65939),
        note="Of 2023; smaller models of 2024 are published above it on BEIR.",
    ),
    CrossEncoderCard(
        model="BAAI/bge-reranker-large",
        licence="MIT",
        commercial_use=True,
        languages="Chinese and English",
        parameters=559_891_457,
        megabytes=2240,
        max_tokens=512,
        onnx_file="onnx/model.onnx",  # with its weights beside it, in onnx/model.onnx_data
        activation="identity",
        scale="logit",
        source=f"{HUB}/BAAI/bge-reranker-large",
        published=_beir(BM25, ARXIV, scifact=0.7410, nfcorpus=0.3480, trec_covid=0.7430),
        note="Of 2023; twice the weights of bge-reranker-base.",
    ),
    CrossEncoderCard(
        model="BAAI/bge-reranker-v2-m3",
        licence="Apache-2.0",
        commercial_use=True,
        languages="Multilingual",
        parameters=567_755_777,
        megabytes=2271,
        max_tokens=8192,
        onnx_file=None,  # its repository answers 404, though many scripts fetch one from there
        activation="identity",
        scale="logit",
        source=f"{HUB}/BAAI/bge-reranker-v2-m3",
        published=(
            *_beir(
                BM25,
                M3_CARD,
                scifact=0.731,
                nfcorpus=0.336,
                fiqa=0.397,
                trec_covid=0.784,
                scidocs=0.169,
                nq=0.597,
                hotpotqa=0.794,
            ),
            Published("BEIR, mean", NDCG, 0.5536, BGE_DENSE, BGE),
            Published("MTEB(eng, v2) retrieval, mean", NDCG, 0.5703, QWEN_DENSE, f"{HUB}/Qwen/Qwen3-Reranker-0.6B"),
        ),
        golden=Golden(
            query="what is panda?",
            texts=(
                "hi",
                "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda,"
                " is a bear species endemic to China.",
            ),
            logits=(-8.1875, 5.26171875),
            tolerance=0.05,  # printed from a run in fp16
            source=BGE,
        ),
        note="Multilingual and long; onnx-community/bge-reranker-v2-m3-ONNX has the ONNX file that its own repository lacks.",
    ),
    CrossEncoderCard(
        model="BAAI/bge-reranker-v2-gemma",
        licence="Apache-2.0",
        commercial_use=True,
        languages="Multilingual",
        parameters=2_506_172_416,
        megabytes=10_025,
        max_tokens=8192,
        onnx_file=None,
        activation="identity",  # the logit of "Yes" alone, not its difference from that of "No"
        scale="logit",
        source=f"{HUB}/BAAI/bge-reranker-v2-gemma",
        published=(Published("BEIR, mean", NDCG, 0.6071, BGE_DENSE, BGE),),
        template="bge-gemma",
        note="Wants a GPU. Made from google/gemma-2b, whose own terms of use its card does not mention: read them.",
    ),
)

# The provider's own code gives the sigmoid of the logit. All three want remote code in PyTorch; their ONNX files do not.
_JINA = (
    CrossEncoderCard(
        model="jinaai/jina-reranker-v1-tiny-en",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=33_000_000,
        megabytes=132,
        max_tokens=8192,
        onnx_file="onnx/model.onnx",
        activation="sigmoid",
        scale="logit",
        source=JINA_V1_CARD,
        published=(Published("BEIR, mean of 17 sets", NDCG, 0.4854, UNSTATED, JINA_V1_CARD),),
        golden=_capital(2.5911, 0.1122),
        note="Long texts on few layers.",
    ),
    CrossEncoderCard(
        model="jinaai/jina-reranker-v1-turbo-en",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=37_800_000,
        megabytes=151,
        max_tokens=8192,
        onnx_file="onnx/model.onnx",
        activation="sigmoid",
        scale="logit",
        source=f"{HUB}/jinaai/jina-reranker-v1-turbo-en",
        published=(
            *_beir(
                BM25,
                M3_CARD,
                scifact=0.739,
                nfcorpus=0.353,
                fiqa=0.336,
                trec_covid=0.774,
                scidocs=0.166,
                nq=0.533,
                hotpotqa=0.745,
            ),
            Published("BEIR, mean of 17 sets", NDCG, 0.4960, UNSTATED, JINA_V1_CARD),
        ),
        golden=_capital(1.8295, -2.8908),
        note="Long texts, and over BM25 better than MiniLM-L6 on most of the sets where both are published.",
    ),
    CrossEncoderCard(
        model="jinaai/jina-reranker-v2-base-multilingual",
        licence="CC-BY-NC-4.0",
        commercial_use=False,
        languages="Over 100 languages",
        parameters=278_000_000,
        megabytes=1112,
        max_tokens=1024,
        onnx_file="onnx/model.onnx",
        activation="sigmoid",
        scale="logit",
        source=f"{HUB}/jinaai/jina-reranker-v2-base-multilingual",
        published=(
            Published(
                "BEIR, mean of 17 sets", NDCG, 0.5317, UNSTATED, f"{HUB}/jinaai/jina-reranker-v2-base-multilingual"
            ),
            Published("MTEB(eng, v2) retrieval, mean", NDCG, 0.5822, QWEN_DENSE, f"{HUB}/Qwen/Qwen3-Reranker-0.6B"),
        ),
        golden=_capital(1.6533, -1.6455, tolerance=0.02),  # an earlier version of the same test has 1.6484, -1.6328
        note="Its weights may not be used commercially without a licence from Jina AI.",
    ),
)

# v1: the provider's package gives the sigmoid of the logit. v2 is asked for "1" or "0", and the score is the difference of
# their logits: the log-odds of its own answer. The package and the shipped config give that difference as it is.
_MXBAI = (
    CrossEncoderCard(
        model="mixedbread-ai/mxbai-rerank-xsmall-v1",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=70_830_337,
        megabytes=284,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="sigmoid",
        scale="logit",
        source=f"{HUB}/mixedbread-ai/mxbai-rerank-xsmall-v1",
        published=(
            Published("BEIR, mean of 11 sets", NDCG, 0.439, LEXICAL, MXBAI_V1),
            Published("BEIR, mean of 17 sets", NDCG, 0.4880, UNSTATED, JINA_V1_CARD),
        ),
        note="The smallest of its family.",
    ),
    CrossEncoderCard(
        model="mixedbread-ai/mxbai-rerank-base-v1",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=184_422_913,
        megabytes=739,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="sigmoid",
        scale="logit",
        source=f"{HUB}/mixedbread-ai/mxbai-rerank-base-v1",
        published=(
            *_beir(
                BM25,
                M3_CARD,
                scifact=0.719,
                nfcorpus=0.353,
                fiqa=0.382,
                trec_covid=0.830,
                scidocs=0.171,
                nq=0.535,
                hotpotqa=0.668,
            ),
            Published("BEIR, mean of 11 sets", NDCG, 0.469, LEXICAL, f"{MXBAI_DOCS}/mxbai-rerank-base-v1"),
            Published("BEIR, mean of 17 sets", NDCG, 0.4919, UNSTATED, JINA_V1_CARD),
        ),
        note="Published as strong on TREC-COVID and weak on HotpotQA.",
    ),
    CrossEncoderCard(
        model="mixedbread-ai/mxbai-rerank-large-v1",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=435_062_785,
        megabytes=1740,
        max_tokens=512,
        onnx_file="onnx/model.onnx",
        activation="sigmoid",
        scale="logit",
        source=f"{HUB}/mixedbread-ai/mxbai-rerank-large-v1",
        published=(
            *_beir(BM25, ARXIV, scifact=0.7510, nfcorpus=0.3708, trec_covid=0.8533),
            Published("BEIR, mean of 11 sets", NDCG, 0.488, LEXICAL, f"{MXBAI_DOCS}/mxbai-rerank-large-v1"),
            Published("BEIR, mean", NDCG, 0.5034, BGE_DENSE, BGE),
        ),
        note="Over a strong dense retriever published as a loss on BEIR: 0.5431 without it, 0.5034 with it.",
    ),
    CrossEncoderCard(
        model="mixedbread-ai/mxbai-rerank-base-v2",
        licence="Apache-2.0",
        commercial_use=True,
        languages="Over 100 languages",
        parameters=494_032_768,
        megabytes=988,
        max_tokens=32_768,  # the provider's package cuts at 8,192
        onnx_file=None,
        activation="identity",
        scale="logit",
        source=f"{HUB}/mixedbread-ai/mxbai-rerank-base-v2",
        published=(Published("BEIR, mean", NDCG, 0.5557, UNSTATED, MXBAI_V2),),
        golden=Golden(
            query="How do I bake sourdough bread?",
            texts=(
                "Sourdough bread requires a starter made from flour and water, fermented over several days.",
                "The history of bread dates back to ancient Egypt around 8000 BCE.",
                "To bake sourdough, mix your starter with flour, water, and salt, then let it rise overnight.",
                "Rye bread is a popular alternative to wheat-based breads in Northern Europe.",
            ),
            logits=(7.3077507, -2.6217823, 8.724761, -2.2488995),
            tolerance=0.05,  # the page does not say on which device, nor in which precision
            source=f"{HUB}/blog/multimodal-sentence-transformers",
        ),
        template="mxbai-v2",
        note="Wants a GPU; takes an instruction.",
    ),
    CrossEncoderCard(
        model="mixedbread-ai/mxbai-rerank-large-v2",
        licence="Apache-2.0",
        commercial_use=True,
        languages="Over 100 languages",
        parameters=1_543_714_304,
        megabytes=3087,
        max_tokens=32_768,  # the provider's package cuts at 8,192
        onnx_file=None,
        activation="identity",
        scale="logit",
        source=f"{HUB}/mixedbread-ai/mxbai-rerank-large-v2",
        published=(Published("BEIR, mean", NDCG, 0.5749, UNSTATED, MXBAI_V2),),
        template="mxbai-v2",
        note="Wants a GPU; takes an instruction.",
    ),
)

# Asked for "yes" or "no": the score is the difference of their logits, whose sigmoid the card calls the probability of
# "yes". The shipped sentence-transformers config gives the difference, the card's other examples the probability.
_QWEN = (
    CrossEncoderCard(
        model="Qwen/Qwen3-Reranker-0.6B",
        licence="Apache-2.0",
        commercial_use=True,
        languages="Over 100 languages",
        parameters=595_776_512,
        megabytes=1192,
        max_tokens=32_768,
        onnx_file=None,
        activation="identity",
        scale="logit",
        source=f"{HUB}/Qwen/Qwen3-Reranker-0.6B",
        published=(
            Published("MTEB(eng, v2) retrieval, mean", NDCG, 0.6580, QWEN_DENSE, f"{HUB}/Qwen/Qwen3-Reranker-0.6B"),
        ),
        golden=Golden(
            query="What is the capital of China?",
            texts=(
                "The capital of China is Beijing.",
                "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and"
                " is responsible for the movement of planets around the sun.",
            ),
            logits=(7.625, -11.375),
            tolerance=0.5,  # printed from a run in bf16, where such logits are an eighth apart; default instruction
            source=f"{HUB}/Qwen/Qwen3-Reranker-0.6B",
        ),
        template="qwen3",
        note="Wants a GPU; takes an instruction. Its own evaluation has it above its first stage by 0.040.",
    ),
    CrossEncoderCard(
        model="Qwen/Qwen3-Reranker-4B",
        licence="Apache-2.0",
        commercial_use=True,
        languages="Over 100 languages",
        parameters=4_021_784_576,
        megabytes=8044,
        max_tokens=32_768,
        onnx_file=None,
        activation="identity",
        scale="logit",
        source=f"{HUB}/Qwen/Qwen3-Reranker-4B",
        published=(
            Published("MTEB(eng, v2) retrieval, mean", NDCG, 0.6976, QWEN_DENSE, f"{HUB}/Qwen/Qwen3-Reranker-4B"),
        ),
        template="qwen3",
        note="Wants a large GPU; takes an instruction.",
    ),
)

_GTE = (
    CrossEncoderCard(
        model="Alibaba-NLP/gte-reranker-modernbert-base",
        licence="Apache-2.0",
        commercial_use=True,
        languages="English",
        parameters=149_605_633,
        megabytes=599,
        max_tokens=8192,
        onnx_file="onnx/model.onnx",
        activation="sigmoid",  # the card prints both the logits and their sigmoids
        scale="logit",
        source=f"{HUB}/Alibaba-NLP/gte-reranker-modernbert-base",
        published=(Published("BEIR, mean", NDCG, 0.5619, UNSTATED, f"{HUB}/Alibaba-NLP/gte-reranker-modernbert-base"),),
        golden=Golden(
            query="how to implement quick sort in python?",
            texts=("Introduction of quick sort", "The weather is nice today"),
            # Of the sigmoids on the card, 0.9213594 and 0.15742092; its logits, 2.4609 and -1.6729, are of fp16.
            logits=(2.460962, -1.677544),
            tolerance=1e-3,
            source=f"{HUB}/Alibaba-NLP/gte-reranker-modernbert-base",
        ),
        note="Long English texts and code.",
    ),
)

CROSS_ENCODERS: Mapping[str, CrossEncoderCard] = {
    card.model: card for card in (*_MS_MARCO, *_BGE, *_JINA, *_MXBAI, *_QWEN, *_GTE)
}

# What the hub called them before, and forwards: most tutorials still do.
_FORMER = {card.model.replace("-L", "-L-", 1): card.model for card in _MS_MARCO}


def card_of(model: str) -> CrossEncoderCard | None:
    """Return what is known of a repository of the hub, also under its former name."""
    return CROSS_ENCODERS.get(_FORMER.get(model, model))
