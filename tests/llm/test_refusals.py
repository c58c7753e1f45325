"""What an exception without a status is about, by its words."""

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")

from rerankx.llm.refusals import blamed_in

FEATURES = frozenset({"logprobs", "schema"})


@pytest.mark.parametrize(
    ("words", "blamed"),
    [
        ("Unsupported parameter: top_logprobs", {"logprobs"}),
        ("response_format is not supported, nor are logprobs", {"logprobs", "schema"}),
        ("unsupported parameter: seed", set()),  # which was not asked for
        ("logprobs took too long", set()),
        ("not supported", set()),
    ],
)
def test_it_is_about_the_wishes_that_it_names_and_refuses(words, blamed):
    assert blamed_in(words, sent=[], features=FEATURES) == blamed


def test_it_is_not_about_what_only_the_prompt_speaks_of():
    prompt = "how do I get logprobs with response_format?"
    assert blamed_in(f"invalid request: {prompt}", sent=[prompt], features=FEATURES) == set()
