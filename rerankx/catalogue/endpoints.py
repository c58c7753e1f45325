"""How rerank services are asked and answer: one `Dialect` each, all of it data.

A service that is not here is a `Dialect` of one's own, or a mapping of its fields: `Reranker("http", dialect={...})`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Literal, get_args

Billing = Literal["tokens", "search_units", "nothing", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What goes into a request for scores and where they lie in the reply. In the names of places, dots go down."""

    path: str
    """After the address; "{model}" in it is replaced by the model."""
    path_dot: str = "."
    """What stands in the path for a dot of the model's name."""
    query: str = "query"
    """Where the query goes in the body."""
    repeat_query: bool = False
    """Whether the query is a list, the same once per document."""
    documents: str = "documents"
    """Where the list of documents goes."""
    document: str | None = None
    """The field of which each document is an object; None: each is a string."""
    model: str | None = "model"
    """Where the model goes; None: nowhere."""
    top_n: str | None = "top_n"
    """Where the number of results goes: that of the documents, so that no server keeps a tail to itself. None: nowhere."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """What else is sent, as it is; keys are names, not places."""
    results: str = "results"
    """Where the list of results lies in the reply; "" where it is the reply."""
    index: str | None = "index"
    """Where a result says which document it is about; None where results come in the order of the documents."""
    score: str = "relevance_score"
    """Where a result has its score; "" where it is the score."""
    scale: Literal["logit", "probability", "unknown"] = "unknown"
    """What the scores are; "unknown" where that depends on the model, or nobody says."""
    max_documents: int | None = None
    """How many one request may hold; None where no limit is known."""
    base_url: str = ""
    """The service's address, or where a server of one's own listens unless told otherwise; "" where there is no telling."""
    default_model: str | None = None
    """Which model is asked where none is given."""
    key_variables: tuple[str, ...] = ()
    """Environment variables that hold the key; the first is the provider's own name for it."""
    needs_key: bool = False
    """Whether nothing goes without one."""
    auth: str = "Authorization"
    """The header that holds the key."""
    auth_scheme: str = "Bearer"
    """What stands before the key; "" for nothing."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that are always sent."""
    permanent: tuple[str, ...] = ()
    """Words in the body of a 5xx reply that say that asking again is no use."""
    billing: Billing = "unknown"
    """What is paid for; "nothing" for a server of one's own."""
    tokens: str | None = None
    """Where the reply says how many tokens were read."""
    units: str | None = None
    """Where the reply says how many search units are billed."""
    summary: str = ""
    """One line for a listing."""
    source: str = ""
    """Where the facts were read: address of documentation, package or source."""
    read: str = ""
    """When, as an ISO date."""

    def __post_init__(self) -> None:
        """Check the types of what may be somebody's own.

        Raises:
            TypeError: A field has a value of another kind.
            ValueError: A value that it cannot have.
        """
        for name in ("key_variables", "permanent"):
            if isinstance(words := getattr(self, name), list):  # as it is in JSON and YAML
                object.__setattr__(self, name, tuple(words))
        for one in fields(self):
            kinds, value = _KINDS[str(one.type).partition("[")[0]], getattr(self, one.name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"{one.name} of a dialect must be {one.type}, not {type(value).__name__}")
        if not self.path.startswith("/"):
            raise ValueError(f"the path of a dialect must begin with a slash, not {self.path[:60]!r}")
        for name, known in (("scale", ("logit", "probability", "unknown")), ("billing", get_args(Billing))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)[:60]!r}")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents of a dialect must be at least 1, not {self.max_documents}")


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "str | None": (str, NoneType),
    "int | None": (int, NoneType),
    "tuple": (tuple,),
    "Mapping": (Mapping,),
    "Literal": (str,),
    "Billing": (str,),
}

LISTWISE: frozenset[str] = frozenset({"jina-reranker-v3", "jina-reranker-v3.5"})
"""Models whose scores depend on the other documents, by the last part of their name: their lists are not split."""

ENDPOINTS: Mapping[str, Dialect] = {
    "cohere": Dialect(
        path="/v2/rerank",
        max_documents=1000,
        tokens="meta.billed_units.input_tokens",
        units="meta.billed_units.search_units",
        summary="any service that speaks Cohere's protocol",
        source="https://docs.cohere.com/docs/reranking-best-practices",
        read="2026-11-23",
    ),
    "contextual": Dialect(
        path="/v1/rerank",
        scale="probability",
        base_url="https://api.contextual.ai",
        default_model="ctxl-rerank-v2-instruct-multilingual",
        key_variables=("CONTEXTUAL_API_KEY",),
        needs_key=True,
        billing="tokens",
        summary="contextual.ai",
        source="https://pypi.org/project/contextual-client/",
        read="2026-11-23",
    ),
    "dashscope": Dialect(
        path="/compatible-api/v1/reranks",
        max_documents=500,
        base_url="https://dashscope.aliyuncs.com",
        default_model="qwen3-rerank",
        key_variables=("DASHSCOPE_API_KEY",),
        needs_key=True,
        billing="tokens",
        tokens="usage.total_tokens",
        summary="Alibaba Cloud Model Studio, Beijing",
        source="https://www.alibabacloud.com/help/en/model-studio/rerank",
        read="2026-11-23",
    ),
    "deepinfra": Dialect(
        path="/v1/inference/{model}",
        query="queries",
        repeat_query=True,
        model=None,
        top_n=None,
        results="scores",
        index=None,
        score="",
        base_url="https://api.deepinfra.com",
        default_model="Qwen/Qwen3-Reranker-8B",
        key_variables=("DEEPINFRA_API_KEY", "DEEPINFRA_TOKEN"),
        needs_key=True,
        billing="tokens",
        tokens="input_tokens",
        summary="deepinfra.com, open models",
        source="https://deepinfra.com/Qwen/Qwen3-Reranker-8B/api",
        read="2026-11-23",
    ),
    "fireworks": Dialect(
        path="/inference/v1/rerank",
        extra={"return_documents": False},
        results="data",
        base_url="https://api.fireworks.ai",
        default_model="accounts/fireworks/models/qwen3-reranker-8b",
        key_variables=("FIREWORKS_API_KEY",),
        needs_key=True,
        billing="tokens",
        tokens="usage.total_tokens",
        summary="fireworks.ai, open models",
        source="https://docs.fireworks.ai/api-reference/rerank-documents",
        read="2026-11-23",
    ),
    "jina-api": Dialect(
        path="/v1/rerank",
        extra={"return_documents": False},
        base_url="https://api.jina.ai",
        default_model="jina-reranker-v3.5",
        key_variables=("JINA_API_KEY",),
        needs_key=True,
        billing="tokens",
        tokens="usage.total_tokens",
        summary="jina.ai",
        source="https://jina.ai/models/jina-reranker-v3.5/",
        read="2026-11-23",
    ),
    "mixedbread": Dialect(
        path="/v1/reranking",
        documents="input",
        top_n="top_k",
        extra={"return_input": False},
        results="data",
        score="score",
        base_url="https://api.mixedbread.com",
        default_model="mixedbread-ai/mxbai-rerank-large-v2",
        key_variables=("MXBAI_API_KEY",),
        needs_key=True,
        billing="tokens",
        tokens="usage.total_tokens",
        summary="mixedbread.com",
        source="https://mixedbread.com/api-reference/endpoints/reranking",
        read="2026-11-23",
    ),
    "nvidia": Dialect(
        path_dot="_",
        path="/v1/retrieval/{model}/reranking",
        query="query.text",
        documents="passages",
        document="text",
        top_n=None,
        extra={"truncate": "END"},
        results="rankings",
        score="logit",
        scale="logit",
        max_documents=512,
        base_url="https://ai.api.nvidia.com",
        default_model="nvidia/llama-nemotron-rerank-1b-v2",
        key_variables=("NVIDIA_API_KEY",),
        needs_key=True,
        tokens="usage.total_tokens",
        summary="build.nvidia.com",
        source="https://pypi.org/project/langchain-nvidia-ai-endpoints/",
        read="2026-11-23",
    ),
    "openrouter": Dialect(
        path="/api/v1/rerank",
        base_url="https://openrouter.ai",
        default_model="cohere/rerank-5-fast",
        key_variables=("OPENROUTER_API_KEY",),
        needs_key=True,
        tokens="usage.total_tokens",
        units="usage.search_units",
        summary="openrouter.ai, a gateway to other providers",
        source="https://openrouter.ai/docs/api/api-reference/rerank/create-rerank",
        read="2026-11-23",
    ),
    "pinecone": Dialect(
        path="/rerank",
        document="text",
        extra={"return_documents": False, "parameters": {"truncate": "END"}},
        results="data",
        score="score",
        scale="probability",
        max_documents=100,
        base_url="https://api.pinecone.io",
        default_model="bge-reranker-v2-m3",
        key_variables=("PINECONE_API_KEY",),
        needs_key=True,
        auth="Api-Key",
        auth_scheme="",
        headers={"X-Pinecone-Api-Version": "2026-07"},
        billing="search_units",
        units="usage.rerank_units",
        summary="pinecone.io",
        source="https://docs.pinecone.io/reference/api/2026-07/inference/rerank-results",
        read="2026-11-23",
    ),
    "siliconflow": Dialect(
        path="/v1/rerank",
        extra={"return_documents": False},
        base_url="https://api.siliconflow.com",
        default_model="Qwen/Qwen3-Reranker-8B",
        key_variables=("SILICONFLOW_API_KEY",),
        needs_key=True,
        billing="tokens",
        tokens="meta.billed_units.input_tokens",
        summary="siliconflow.com, open models",
        source="https://docs.siliconflow.com/en/api-reference/rerank/create-rerank",
        read="2026-11-23",
    ),
    "together": Dialect(
        path="/v1/rerank",
        extra={"return_documents": False},
        base_url="https://api.together.ai",
        key_variables=("TOGETHER_API_KEY",),
        needs_key=True,
        tokens="usage.total_tokens",
        summary="together.ai, a model on an endpoint of your own",
        source="https://pypi.org/project/together/",
        read="2026-11-23",
    ),
    "voyage": Dialect(
        path="/v1/rerank",
        top_n="top_k",
        extra={"return_documents": False, "truncation": True},
        results="data",
        max_documents=1000,
        base_url="https://api.voyageai.com",
        default_model="rerank-3",
        key_variables=("VOYAGE_API_KEY",),
        needs_key=True,
        billing="tokens",
        tokens="usage.total_tokens",
        summary="voyageai.com",
        source="https://docs.voyageai.com/reference/reranker-api",
        read="2026-11-23",
    ),
    "zeroentropy": Dialect(
        path="/v1/models/rerank",
        scale="probability",
        base_url="https://api.zeroentropy.dev",
        default_model="zerank-2",
        key_variables=("ZEROENTROPY_API_KEY",),
        needs_key=True,
        billing="tokens",
        tokens="total_tokens",
        summary="zeroentropy.dev",
        source="https://pypi.org/project/zeroentropy/",
        read="2026-11-23",
    ),
    "infinity": Dialect(
        path="/rerank",
        extra={"return_documents": False, "raw_scores": False},
        scale="probability",
        max_documents=2048,
        base_url="http://localhost:7997",
        key_variables=("INFINITY_API_KEY",),
        billing="nothing",
        tokens="usage.total_tokens",
        summary="Infinity, a server of your own",
        source="https://pypi.org/project/infinity-emb/",
        read="2026-11-23",
    ),
    "litellm": Dialect(
        permanent=("too large to process",),
        path="/v2/rerank",
        extra={"return_documents": False},
        base_url="http://localhost:4000",
        key_variables=("LITELLM_API_KEY", "LITELLM_PROXY_API_KEY"),
        summary="LiteLLM, a gateway of your own to other providers",
        source="https://pypi.org/project/litellm/",
        read="2026-11-23",
    ),
    "llamacpp": Dialect(
        path="/v1/rerank",
        base_url="http://localhost:8080",
        key_variables=("LLAMA_API_KEY",),
        permanent=("too large to process",),
        billing="nothing",
        tokens="usage.total_tokens",
        summary="llama.cpp, a server of your own",
        source="https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
        read="2026-11-23",
    ),
    "localai": Dialect(
        path="/v1/rerank",
        base_url="http://localhost:8080",
        key_variables=("LOCALAI_API_KEY",),
        billing="nothing",
        tokens="usage.total_tokens",
        summary="LocalAI, a server of your own",
        source="https://github.com/mudler/LocalAI/blob/master/core/http/endpoints/jina/rerank.go",
        read="2026-11-23",
    ),
    "nim": Dialect(
        path="/v1/ranking",
        query="query.text",
        documents="passages",
        document="text",
        top_n=None,
        extra={"truncate": "END"},
        results="rankings",
        score="logit",
        scale="logit",
        max_documents=512,
        base_url="http://localhost:8000",
        billing="nothing",
        tokens="usage.total_tokens",
        summary="NVIDIA's reranking NIM, a server of your own",
        source="https://docs.nvidia.com/nim/nemo-retriever/text-reranking/latest/using-reranking.html",
        read="2026-11-23",
    ),
    "tei": Dialect(
        permanent=("too large to process",),
        path="/rerank",
        documents="texts",
        model=None,
        top_n=None,
        extra={"truncate": True, "raw_scores": False},
        results="",
        score="score",
        scale="probability",
        max_documents=32,
        base_url="http://localhost:8080",
        billing="nothing",
        summary="text-embeddings-inference, a server of your own",
        source="https://github.com/huggingface/text-embeddings-inference/blob/main/core/src/infer.rs",
        read="2026-11-23",
    ),
    "vllm": Dialect(
        path="/v1/rerank",
        extra={"truncate_prompt_tokens": -1},  # else one text that is too long is a 400 for all
        base_url="http://localhost:8000",
        key_variables=("VLLM_API_KEY",),
        billing="nothing",
        tokens="usage.total_tokens",
        summary="vLLM, a server of your own",
        source="https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/pooling/score/protocol.py",
        read="2026-11-23",
    ),
    "xinference": Dialect(
        path="/v1/rerank",
        extra={"return_documents": False},
        base_url="http://localhost:9997",
        billing="nothing",
        summary="Xinference, a server of your own",
        source="https://pypi.org/project/xinference/",
        read="2026-11-23",
    ),
}
"""By the name of the preset; those that are paid for come first, then servers of one's own."""
