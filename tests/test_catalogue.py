"""The cards are complete and agree with themselves; what they say was looked up, not measured here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rerankx
from rerankx.catalogue import CROSS_ENCODERS, EMBEDDED, FLASHRANK, card_of

CARDS = [*CROSS_ENCODERS.items(), *FLASHRANK.items()]
HUB_CARDS = list(CROSS_ENCODERS.values())
FLASHRANK_CARDS = list(FLASHRANK.values())

# What the aliases of the cross-encoder backend stand for.
DEFAULTS = {
    "minilm": "cross-encoder/ms-marco-MiniLM-L6-v2",
    "bge": "BAAI/bge-reranker-base",
    "jina": "jinaai/jina-reranker-v1-turbo-en",
    "mxbai": "mixedbread-ai/mxbai-rerank-xsmall-v1",
    "qwen3": "Qwen/Qwen3-Reranker-0.6B",
    "gte": "Alibaba-NLP/gte-reranker-modernbert-base",
}


def name_of(card):
    return card.model if hasattr(card, "model") else card[0]


def test_every_model_that_is_promised_has_a_card():
    assert len(CROSS_ENCODERS) == 20
    assert len(FLASHRANK) == 6
    assert not CROSS_ENCODERS.keys() & FLASHRANK.keys()


@pytest.mark.parametrize(("name", "card"), CARDS, ids=name_of)
class TestCard:
    def test_is_found_by_its_own_name(self, name, card):
        assert card.model == name

    def test_is_complete(self, name, card):
        assert card.licence.strip()
        assert card.languages.strip()
        assert card.source.startswith("https://")
        assert card.parameters > 1_000_000
        assert card.megabytes is None or card.megabytes > 0
        assert card.max_tokens >= 512  # BERT's: none here has fewer positions

    def test_note_is_at_most_two_plain_sentences(self, name, card):
        assert card.note.endswith(".")
        assert "\n" not in card.note
        assert len(re.findall(r"\.(?= )", card.note)) <= 1

    def test_licence_and_use_agree(self, name, card):
        assert card.commercial_use == ("NC" not in card.licence.split("-"))

    def test_only_what_has_no_graph_has_a_template(self, name, card):
        assert (card.template is None) or (card.onnx_file is None)
        assert card.template in {None, "qwen3", "bge-gemma", "mxbai-v2"}

    def test_published_figures_are_fractions_with_first_stage_and_source(self, name, card):
        for figure in card.published:
            assert 0.0 < figure.value < 1.0, figure
            assert figure.metric in {"nDCG@10", "MRR@10"}, figure
            assert figure.collection, figure
            assert figure.first_stage, figure
            assert figure.source.startswith("https://"), figure

    def test_no_figure_is_there_twice(self, name, card):
        kinds = [(figure.collection, figure.metric, figure.first_stage, figure.source) for figure in card.published]
        assert len(kinds) == len(set(kinds))

    def test_golden_logits_are_one_per_text_and_tell_them_apart(self, name, card):
        if card.golden is None:
            return
        golden = card.golden
        assert len(golden.texts) == len(golden.logits) >= 2
        assert len(set(golden.texts)) == len(golden.texts)
        assert golden.query.strip()
        assert golden.source.startswith("https://")
        assert 0.0 < golden.tolerance <= 0.5
        best, *others = sorted(golden.logits, reverse=True)
        assert best - min(others) > 4 * golden.tolerance  # a verification that scores swapped would pass is none


@pytest.mark.parametrize("card", HUB_CARDS, ids=name_of)
def test_hub_models_are_named_as_repositories_and_sourced_from_their_cards(card):
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", card.model)
    assert card.source == f"https://huggingface.co/{card.model}"


@pytest.mark.parametrize("card", [card for card in HUB_CARDS if card.onnx_file is not None], ids=name_of)
def test_graph_of_fp32_has_four_bytes_for_each_parameter(card):
    assert card.megabytes == pytest.approx(4 * card.parameters / 1e6, rel=0.02, abs=1)


@pytest.mark.parametrize("card", [card for card in HUB_CARDS if card.onnx_file is None], ids=name_of)
def test_safetensors_have_two_or_four_bytes_for_each_parameter(card):
    halves = card.megabytes / (2 * card.parameters / 1e6)
    assert halves == pytest.approx(1, rel=0.02) or halves == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("card", FLASHRANK_CARDS, ids=name_of)
def test_flashrank_files_have_about_a_byte_for_each_parameter(card):
    assert card.megabytes is None or card.megabytes == pytest.approx(card.parameters / 1e6, rel=0.15)


@pytest.mark.parametrize("card", FLASHRANK_CARDS, ids=name_of)
def test_flashrank_activation_is_one_of_those_that_it_has(card):
    assert card.activation in {"sigmoid", "softmax"} or card.model == "miniReranker_arabic_v1"  # which nobody describes
    assert card.published == ()  # it prints none, and figures from before quantisation are not of these files


def test_flashrank_names_and_files_are_the_packages_own():
    config = pytest.importorskip("flashrank.Config", reason="needs the package flashrank")
    encoders = {name: file for name, file in config.model_file_map.items() if name not in config.listwise_rankers}
    assert {card.model: card.onnx_file for card in FLASHRANK.values()} == encoders
    assert config.model_url == "https://huggingface.co/prithivida/flashrank/resolve/main/{}.zip"


@pytest.mark.parametrize(("alias", "model"), DEFAULTS.items())
def test_default_models_may_be_used_commercially_and_run_on_a_cpu(alias, model):
    card = CROSS_ENCODERS[model]
    assert card.commercial_use
    assert (card.onnx_file is None) == (alias == "qwen3")


def test_non_commercial_model_says_so_in_its_note():
    models = [card for card in HUB_CARDS if not card.commercial_use]
    assert [card.model for card in models] == ["jinaai/jina-reranker-v2-base-multilingual"]
    assert "commercially" in models[0].note


def test_causal_models_have_the_template_of_their_family():
    families = {card.model: card.template for card in HUB_CARDS if card.template is not None}
    assert families == {
        "BAAI/bge-reranker-v2-gemma": "bge-gemma",
        "mixedbread-ai/mxbai-rerank-base-v2": "mxbai-v2",
        "mixedbread-ai/mxbai-rerank-large-v2": "mxbai-v2",
        "Qwen/Qwen3-Reranker-0.6B": "qwen3",
        "Qwen/Qwen3-Reranker-4B": "qwen3",
    }


def test_figures_over_the_official_candidates_say_so():
    figures = [
        figure for card in HUB_CARDS for figure in card.published if figure.collection in {"TREC DL19", "MS MARCO dev"}
    ]
    assert len(figures) == 10
    assert all("official" in figure.first_stage and "1,000" in figure.first_stage for figure in figures)


def test_embedded_model_has_its_card_beside_them():
    assert EMBEDDED.model not in CROSS_ENCODERS


def test_catalogue_needs_the_standard_library_only():
    # The package above it is stood in for, so that what is counted is the catalogue's own.
    code = f"""
import sys, types
package = types.ModuleType("rerankx")
package.__path__ = [{str(Path(rerankx.__file__).parent)!r}]
sys.modules["rerankx"] = package
before = set(sys.modules)
import rerankx.catalogue
new = set(sys.modules) - before
print(*sorted(name for name in new if name.partition(".")[0] not in sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert imported
    assert all(name.startswith("rerankx.catalogue") for name in imported), imported


def test_a_repository_is_known_by_its_former_name_too():
    assert card_of("cross-encoder/ms-marco-MiniLM-L-6-v2") is CROSS_ENCODERS["cross-encoder/ms-marco-MiniLM-L6-v2"]
    assert card_of("somebody/ms-marco-MiniLM-L-6-v2") is None
