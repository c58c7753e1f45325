"""FlashRank's encoder models, by its own names: the zips `<name>.zip` in the repository prithivida/flashrank on the hub.

`onnx_file` is the file in the folder that the zip holds. Those whose size is known are quantised to 8 bits, about a byte for a
weight, with or without a `_Q` in their name. FlashRank gives the sigmoid of one logit, or the second value of the softmax of
two, and calls that the score: hence the scales. There are no published figures of these files; those of the models before
quantisation are not theirs.
"""

from collections.abc import Mapping

from rerankx.catalogue.cards import CrossEncoderCard

SOURCE = "https://github.com/PrithivirajDamodaran/FlashRank"
LICENCE = "CC-BY-SA"  # of the repository of zips, in the words of FlashRank's Config.py, which names no version

FLASHRANK: Mapping[str, CrossEncoderCard] = {
    card.model: card
    for card in (
        CrossEncoderCard(
            model="ms-marco-TinyBERT-L-2-v2",
            licence=LICENCE,
            commercial_use=True,
            languages="English",
            parameters=4_386_049,
            megabytes=4,
            max_tokens=512,
            onnx_file="flashrank-TinyBERT-L-2-v2.onnx",
            activation="sigmoid",
            scale="logit",
            source=SOURCE,
            note="FlashRank's default: cross-encoder/ms-marco-TinyBERT-L2-v2, quantised.",
        ),
        CrossEncoderCard(
            model="ms-marco-MiniLM-L-12-v2",
            licence=LICENCE,
            commercial_use=True,
            languages="English",
            parameters=33_360_385,
            megabytes=34,
            max_tokens=512,
            onnx_file="flashrank-MiniLM-L-12-v2_Q.onnx",
            activation="sigmoid",
            scale="logit",
            source=SOURCE,
            note="cross-encoder/ms-marco-MiniLM-L12-v2, quantised; FlashRank calls it its best cross-encoder.",
        ),
        CrossEncoderCard(
            model="rank-T5-flan",
            licence=LICENCE,
            commercial_use=True,
            languages="English",
            parameters=109_600_000,  # of the encoder of FLAN-T5 base, which 110 MB of 8-bit weights fit
            megabytes=110,
            max_tokens=512,
            onnx_file="flashrank-rankt5_Q.onnx",
            activation="sigmoid",
            scale="logit",
            source=SOURCE,
            note="bergum/rank-T5-flan, quantised; that repository states no licence.",
        ),
        CrossEncoderCard(
            model="ms-marco-MultiBERT-L-12",
            licence=LICENCE,
            commercial_use=True,
            languages="Over 100 languages",
            parameters=167_000_000,  # of multilingual BERT, uncased; FlashRank does not say which it is
            megabytes=150,
            max_tokens=512,
            onnx_file="flashrank-MultiBERT-L12_Q.onnx",
            activation="softmax",  # two logits
            scale="logit",
            source=SOURCE,
            note="Not for English, FlashRank says.",
        ),
        CrossEncoderCard(
            model="ce-esci-MiniLM-L12-v2",
            licence=LICENCE,
            commercial_use=True,
            languages="English",
            parameters=33_360_385,
            megabytes=None,
            max_tokens=512,
            onnx_file="flashrank-ce-esci-MiniLM-L12-v2_Q.onnx",
            activation="sigmoid",
            scale="logit",
            source=SOURCE,
            note="metarank/ce-esci-MiniLM-L12-v2, quantised: product search, trained on pairs of at most 128 tokens.",
        ),
        CrossEncoderCard(
            model="miniReranker_arabic_v1",
            licence=LICENCE,
            commercial_use=True,
            languages="Arabic",
            parameters=117_700_000,  # from the 471 MB of its safetensors
            megabytes=None,
            max_tokens=512,
            onnx_file="miniReranker_arabic_v1.onnx",
            activation=None,  # nobody says how many logits it has: by FlashRank's rule the sigmoid of one, the softmax of two
            scale="logit",
            source=SOURCE,
            note="Of prithivida/miniReranker_arabic_v1, which has it under Apache-2.0.",
        ),
    )
}
