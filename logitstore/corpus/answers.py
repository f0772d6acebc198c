"""Files of answers in a corpus hold token ids, which mean something to one tokenizer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.corpus.tokenizer import tokenizer_fingerprint
from logitstore.errors import TokenizerError

if TYPE_CHECKING:
    from logitstore.corpus.corpus import Corpus

__all__ = ["refuse_other_answers"]


def refuse_other_answers(corpus: Corpus, tokenizer: Any) -> None:
    """Raise TokenizerError where a file of answers was made with another tokenizer.

    corpus: of whose files those are looked at that say who answered.
    tokenizer: of transformers, of the model that is to read them.
    """
    found = tokenizer_fingerprint(tokenizer) if corpus.answers else ""
    for one in corpus.answers:
        wanted = one.tokenizer["fingerprint"]
        if wanted != found:
            raise TokenizerError(
                f"the answers were given by {one.model['name']}, whose tokenizer is another, so "
                "ids would mean other tokens",
                place=corpus.name,
                found=wanted[:12],
                allowed=found[:12],
                remedy="Take a model with the same tokenizer, or the answers as text: their "
                "prompt and answer_text as fields prompt and completion",
            )
