"""Checkpoints with the real architectures and small random weights, as transformers saves them."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from rerankx import demo
from rerankx.backends.embedded.lexical import DATA

CLASSIFIERS = ("bert", "xlm-roberta", "modernbert")
CAUSAL = {"qwen3": "qwen3", "gemma": "bge-gemma", "qwen2": "mxbai-v2"}
"""The template of each kind of language model."""

WHY_NOT = "needs sentence-transformers, and so torch"

_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_classifier(
    kind: str, folder: Path, *, labels: int = 1, seed: int = 0, layers: int = 2, hidden: int = 32
) -> Path:
    """Save a sequence classifier ("bert", "xlm-roberta" or "modernbert") and its tokenizer; return the folder."""
    import torch
    import transformers as hf

    size = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "num_labels": labels,
        "initializer_range": 0.2,  # else all scores are nearly the same
    }
    torch.manual_seed(seed)
    if kind == "bert":
        tokenizer, names = word_piece(), ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
        config = hf.BertConfig(vocab_size=tokenizer.get_vocab_size(), **size)
        model, inputs, longest = hf.BertForSequenceClassification(config), ["token_type_ids"], 512
    elif kind == "xlm-roberta":
        tokenizer, names = unigram(), ("<s>", "</s>", "<pad>", "<unk>", "<unk>")
        config = hf.XLMRobertaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            **size,
        )
        # A tokenizer that knows no limit, as some on the hub: 514 positions are 512 tokens.
        model, inputs, longest = hf.XLMRobertaForSequenceClassification(config), [], int(1e30)
    else:
        tokenizer, names = byte_level(["[PAD]", "[CLS]", "[SEP]"]), ("[CLS]", "[SEP]", "[PAD]", "[PAD]", "[PAD]")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        config = hf.ModernBertConfig(
            vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=1024, local_attention=32, pad_token_id=0,
            bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2, initializer_cutoff_factor=2.0, **size,
        )  # fmt: skip
        model, inputs, longest = hf.ModernBertForSequenceClassification(config), [], 1024
    model.save_pretrained(folder)
    hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        model_input_names=["input_ids", *inputs, "attention_mask"],
        **dict(zip(("cls_token", "sep_token", "pad_token", "unk_token", "mask_token"), names, strict=True)),
    ).save_pretrained(folder)
    return folder


def save_causal(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a language model ("qwen3", "gemma" or "qwen2") and its tokenizer; return the folder."""
    import torch
    import transformers as hf

    size = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    if kind == "gemma":
        tokenizer = sentence_piece()
        config = hf.GemmaConfig(vocab_size=tokenizer.get_vocab_size(), head_dim=16, **size)
        model, names = hf.GemmaForCausalLM(config), {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    else:
        tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in ("<think>", "</think>")])
        config_of, model_of = {
            "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM),
            "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM),
        }[kind]
        more = {"head_dim": 16} if kind == "qwen3" else {}
        # Qwen3-Reranker and mxbai-rerank-v2 share the weights of word vectors and vocabulary; one of the two here does not.
        config = config_of(
            vocab_size=tokenizer.get_vocab_size(), tie_word_embeddings=kind == "qwen3", bos_token_id=0, eos_token_id=2,
            **size, **more,
        )  # fmt: skip
        model = model_of(config)
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": _CHAT}
    model.save_pretrained(folder)
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=4096, **names).save_pretrained(folder)
    return folder


def word_piece() -> Tokenizer:
    """BERT's, with the vocabulary of the embedded model."""
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def unigram() -> Tokenizer:
    """XLM-RoBERTa's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=800, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def byte_level(special: list[str]) -> Tokenizer:
    """BPE over bytes: ModernBERT's kind, and Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def sentence_piece() -> Tokenizer:
    """Gemma's kind: BPE over characters with marks for spaces, bytes for what it does not know."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=[*special, *alphabet], show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


def _corpus() -> list[str]:
    # The answers often enough to be tokens of their own.
    return [passage.text for passage in demo.passages()] + ["yes", "no", "Yes", "No"] * 500


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory):
    """Return the folder of a classifier of each kind."""
    return {kind: save_classifier(kind, tmp_path_factory.mktemp(kind)) for kind in CLASSIFIERS}


@pytest.fixture(scope="session")
def causal_seeds(tmp_path_factory):
    """Return, for a kind, folders of language models with seeds 0, 1, ...; made when they are asked for."""
    made = {}

    def folders(kind, n=64):
        for seed in range(n):
            if (kind, seed) not in made:
                made[kind, seed] = save_causal(kind, tmp_path_factory.mktemp(kind), seed)
            yield made[kind, seed]

    return folders
