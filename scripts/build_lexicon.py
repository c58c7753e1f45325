"""Count in how many texts each word piece occurs: the table behind the lexical part.

    python scripts/build_lexicon.py CORPUS.jsonl [CORPUS.jsonl ...] --tokenizer tokenizer.json --out lexicon.npz

Each corpus is in BEIR layout, one {"_id", "title", "text"} a line. The table that ships was counted over the passages of
NQ (oracle passages) and XQuAD (English). Only counts are written, no text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    tokenizer.encode_special_tokens = True
    size = tokenizer.get_vocab_size()
    is_word = np.array([any(c.isalnum() for c in tokenizer.id_to_token(i)) for i in range(size)])
    # "[UNK]" stands for any character that the vocabulary lacks: two of them are not the same word.
    for special in ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"):
        is_word[tokenizer.token_to_id(special)] = False

    df, texts, pieces = np.zeros(size, np.uint32), 0, 0
    for corpus in args.corpora:
        with corpus.open(encoding="utf-8") as lines:
            for line in lines:
                passage = json.loads(line)
                ids = np.array(
                    tokenizer.encode(f"{passage.get('title', '')} {passage['text']}", add_special_tokens=False).ids
                )
                df[np.unique(ids)] += 1
                texts, pieces = texts + 1, pieces + int(is_word[ids].sum())
    np.savez_compressed(args.out, df=df, texts=texts, mean_length=pieces / texts, is_word=is_word)
    print(f"{texts} texts, mean length {pieces / texts:.1f} words, {int((df > 0).sum())} of {size} pieces seen")


if __name__ == "__main__":
    main()
