"""A model of bytes read by two tokenizers: its token distributions are exact under both.

The chain is of order 1 over four letters. Each tokenizer cuts by a prefix-free code: where a token
ends is known without looking at what follows, so the probability of a token is the product of those
of its bytes, and that of the same bytes is the same in any tokens.
"""

import itertools
import json

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcd"
RARE = -30.0  # nats: of what never comes
BEGIN, END = "<s>", "</s>"


def chain(seed=0):
    """float64 [5, 4]: log-probabilities of the next letter behind each letter, and at the start."""
    logits = np.random.default_rng(seed).normal(size=(len(LETTERS) + 1, len(LETTERS)))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def text(logprobs, *, letters, seed):
    """`letters` letters of the chain, or a few more: it ends where a token of 6 letters can."""
    draw = np.random.default_rng(seed)
    last, found = len(LETTERS), []
    while len(found) < letters:
        last = int(draw.choice(len(LETTERS), p=np.exp(logprobs[last])))
        found.append(LETTERS[last])
    return "".join(found)


def code(width):
    """The tokens of a prefix-free code: "a" alone, every other letter with those behind it."""
    rest = itertools.product(LETTERS, repeat=width - 1)
    return ["a", *(first + "".join(one) for one in rest for first in LETTERS[1:])]


def tokenizer_of(width):
    """The tokenizer of that code; it cuts by a pattern, so nothing is merged."""
    vocabulary = {name: number for number, name in enumerate([BEGIN, END, *code(width)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    cut = pre_tokenizers.Split(Regex(f"a|[b-d][a-d]{{{width - 1}}}"), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([cut, plain])
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BEGIN, eos_token=END)


def token_table(logprobs, width):
    """float64 [V, V]: the log-probability of each token behind each, exact."""
    names = [BEGIN, END, *code(width)]
    table = np.full((len(names), len(names)), RARE)
    for row, before in enumerate(names):
        last = len(LETTERS) if before in (BEGIN, END) else LETTERS.index(before[-1])
        for column, name in enumerate(names[2:], start=2):
            path = [last, *map(LETTERS.index, name)]
            table[row, column] = sum(logprobs[one, two] for one, two in itertools.pairwise(path))
    return table - np.log(np.exp(table).sum(axis=1, keepdims=True))


def model_of(table):
    """A Llama without layers whose logits behind a token are a row of `table`."""
    size = len(table)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=0,
        num_attention_heads=1,
        head_dim=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    normed = (1 / size + config.rms_norm_eps) ** -0.5  # what the norm makes of a one
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(torch.from_numpy(table.T / normed))
    return model


def whole_texts(logprobs, *, count, widths):
    """Texts that the codes of all `widths` cut without a rest, each with its length in letters."""
    texts, seed = [], 0
    while len(texts) < count:
        seed += 1
        one = text(logprobs, letters=40, seed=seed)
        if all(_rest(one, width) == 0 for width in widths):
            texts.append(one)
    return texts


def _rest(one, width):
    place = 0
    while place < len(one):
        place += 1 if one[place] == "a" else width
    return place - len(one)


def saved(folder, *, width, logprobs):
    """The model and the tokenizer of a code in a folder."""
    model_of(token_table(logprobs, width)).save_pretrained(folder)
    tokenizer_of(width).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 0
    return folder
