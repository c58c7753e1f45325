"""What an `llm=` may be, and which bridge leads to it."""

from __future__ import annotations

from rerankx.llm.chat import Chat
from rerankx.llm.function import FunctionChat
from rerankx.llm.langchain import LangChainChat
from rerankx.llm.llamaindex import LlamaIndexChat
from rerankx.llm.loaded import is_a

_EXPECTED = "a LangChain chat model, a LlamaIndex LLM, or a function that takes messages and returns the reply's text"


def chat_of(llm: object) -> Chat:
    """Return a bridge to a language model.

    Args:
        llm: A LangChain chat model or another of its runnables, a LlamaIndex LLM, a function, or a bridge, which is returned.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(llm, Chat):
        return llm
    if isinstance(llm, type):
        raise TypeError(f"llm= takes an object, not its class: llm={llm.__name__}(...)")
    if isinstance(llm, str):
        raise TypeError("llm= takes an object; a model by its name is 'listwise:<model>' with base_url=")
    if is_a(llm, "langchain_core.runnables.base", "Runnable"):
        return LangChainChat(llm)
    if is_a(llm, "llama_index.core.base.llms.base", "BaseLLM"):
        return LlamaIndexChat(llm)
    if callable(llm):
        return FunctionChat(llm)
    raise TypeError(f"llm= takes {_EXPECTED}, not {type(llm).__name__}")
