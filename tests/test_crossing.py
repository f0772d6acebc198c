"""Documents in the tokens of another tokenizer: exact, or left out with the reason."""

import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from logitstore import Document, StoredDocument
from logitstore.errors import SettingError, TokenizerError
from logitstore.plumbing import TokenBytes
from tests.synthetic import sparse_targets
from tools.tokenizers_across import main
from trainer.data.crossing import Crossing
from trainer.data.spans import SpanTargets

TEXTS = [
    "The teacher reads the text once.",
    "naïve café — 北京 😀\n\n\tdef f(x):  return 12345\r\n",
    "  two spaces before, one behind ",
]


def _sentencepiece(*, prefix, lower=False):
    """A BPE of characters with bytes to fall back to, as Gemma's; with a prefix as Llama 2's."""
    bytes_ = [f"<0x{one:02X}>" for one in range(256)]
    names = ["<unk>", "<s>", "</s>", *bytes_, *"▁abcdefghijklmnopqrstuvwxyzT", "▁t", "th", "▁th"]
    core = Tokenizer(
        models.BPE(
            {name: number for number, name in enumerate(names)},
            [("▁", "t"), ("t", "h"), ("▁t", "h")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    steps = [normalizers.Replace(" ", "▁")]
    if prefix:
        steps.insert(0, normalizers.Prepend("▁"))
    if lower:
        steps.insert(0, normalizers.Lowercase())
    core.normalizer = normalizers.Sequence(steps)
    ends = [decoders.Strip(" ", 1, 0)] if prefix else []
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _byte_level(texts, *, size):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


@pytest.fixture(scope="module")
def tokenizers(tokenizer):
    return {
        "store": tokenizer,
        "other": _byte_level(TEXTS * 3, size=330),
        "pieces": _sentencepiece(prefix=False),
        "prefix": _sentencepiece(prefix=True),
    }


def _stored(tokenizer, text, *, ids=None, counted=None, piece=0, seed=0):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if ids is None else ids
    counted_L = np.ones(len(ids), dtype=bool) if counted is None else np.array(counted)
    counted_L[:1] = False
    targets = sparse_targets(int(counted_L.sum()), k=4, vocab_size=300, seed=seed)
    document = Document(
        id=bytes(16),
        record=0,
        piece=piece,
        input_ids_L=np.array(ids, dtype=np.uint32),
        counted_L=counted_L,
    )
    return StoredDocument(document=document, targets=targets)


def _ends(tokenizer, ids):
    return set(
        np.cumsum([0, *(len(TokenBytes.of(tokenizer).joined(np.array([one]))) for one in ids)])
    )


@pytest.mark.parametrize(
    ("teacher", "student"), list(itertools.permutations(["store", "other", "pieces", "prefix"], 2))
)
def test_a_document_keeps_its_text_and_spans_its_log_probabilities(tokenizers, teacher, student):
    one, two = tokenizers[teacher], tokenizers[student]
    for seed, text in enumerate(TEXTS):
        stored = _stored(one, text, seed=seed)
        (found,) = Crossing(one, two).cross([stored])
        assert found.left_out is None
        ids = found.document.input_ids_L.tolist()
        assert two.decode(ids).lstrip(" ") == text.lstrip(" ")
        spans = found.targets
        # Every token of the teacher but the first, which has no target, is in exactly one span.
        whole = float(stored.targets.label_logprob_R.sum(dtype=np.float64))
        missing = whole - float(spans.teacher_S.sum(dtype=np.float64))
        assert found.targets.rows == found.document.targets
        assert len(spans.starts_S) > 5
        first = stored.targets.label_logprob_R[: len(text.encode())]
        lost = [float(first[:n].sum(dtype=np.float64)) for n in range(len(first) + 1)]
        assert min(abs(missing - one) for one in lost) < 1e-4


def test_spans_are_the_smallest_and_end_before_white_space_where_asked(tokenizers):
    one, two = tokenizers["store"], tokenizers["other"]
    text = TEXTS[0]
    stored = _stored(one, text)
    (found,) = Crossing(one, two).cross([stored])
    teacher = _ends(one, stored.document.input_ids_L.tolist())
    student = _ends(two, found.document.input_ids_L.tolist())
    common = sorted(teacher & student)
    # The first tokens of both sides have no target.
    behind = [end for end in common if end >= max(sorted(teacher)[1], sorted(student)[1])]
    assert found.targets.bytes_S.tolist() == np.diff(behind).tolist()
    (words,) = Crossing(one, two, words=True).cross([stored])
    ends = np.cumsum(words.targets.bytes_S) + len(text) - int(words.targets.bytes_S.sum())
    assert all(end == len(text) or text[end] == " " for end in ends)


def test_the_end_of_text_is_a_span_of_its_own(tokenizers):
    one, two = tokenizers["store"], tokenizers["pieces"]
    ids = [*one(TEXTS[0], add_special_tokens=False)["input_ids"], one.eos_token_id]
    stored = _stored(one, "", ids=ids)
    (found,) = Crossing(one, two).cross([stored])
    assert found.document.input_ids_L[-1] == two.eos_token_id
    assert found.targets.bytes_S[-1] == 0
    assert found.targets.teacher_S[-1] == stored.targets.label_logprob_R[-1]


def test_uncounted_tokens_have_no_spans_and_their_bytes_do_not_count(tokenizers):
    one, two = tokenizers["store"], tokenizers["other"]
    ids = one(TEXTS[0], add_special_tokens=False)["input_ids"]
    counted = [place >= len(ids) // 2 for place in range(len(ids))]
    stored = _stored(one, "", ids=ids, counted=counted)
    (found,) = Crossing(one, two).cross([stored])
    told = len(TokenBytes.of(one).joined(np.array(ids[len(ids) // 2 :])))
    assert told - 12 <= found.text_bytes <= told
    assert int(found.targets.bytes_S.sum()) <= told


def test_a_piece_that_is_cut_within_a_letter_loses_that_letter_alone(tokenizers):
    one, two = tokenizers["store"], tokenizers["pieces"]
    ids = one("日本語", add_special_tokens=False)["input_ids"]
    assert len(ids) == 9
    (found,) = Crossing(one, two).cross([_stored(one, "", ids=ids[1:8], piece=1)])
    assert two.decode(found.document.input_ids_L.tolist()) == "本"
    assert found.targets.bytes_S.tolist() == [1, 1]  # the first byte has none before it


def test_a_rows_distribution_is_that_of_the_same_place(tokenizers):
    one, two = tokenizers["store"], tokenizers["other"]
    stored = _stored(one, TEXTS[0])
    (found,) = Crossing(one, two, with_targets=True).cross([stored])
    teacher = np.cumsum([0, *map(len, _strings(one, stored.document.input_ids_L))])
    student = np.cumsum([0, *map(len, _strings(two, found.document.input_ids_L))])
    counted = np.flatnonzero(found.document.counted_L)
    for row, at in enumerate(found.targets.aligned_A):
        place = teacher.tolist().index(student[counted[at]])
        expected = stored.targets.ids_RK[place - 1]  # the first token has no target
        assert found.targets.targets.ids_RK[row].tolist() == expected.tolist()


def _strings(tokenizer, ids_L):
    found = TokenBytes.of(tokenizer)
    return [found.table[one] for one in ids_L.tolist()]


def test_what_is_not_exact_is_left_out_with_the_reason(tokenizers):
    one, two = tokenizers["store"], tokenizers["other"]
    plain = one(TEXTS[0], add_special_tokens=False)["input_ids"]
    documents = {
        "special tokens stand inside": [*plain[:4], one.eos_token_id, *plain[4:], one.eos_token_id],
        "no token of the store's tokenizer has": [*plain, 299_999],
        "no UTF-8": one("語", add_special_tokens=False)["input_ids"][:2] + plain,
        "holds no text": [one.eos_token_id, one.eos_token_id],
        "special or unknown tokens in its text": one("a <|end|> b")["input_ids"],
    }
    stored = [_stored(one, "", ids=ids) for ids in documents.values()]
    found = Crossing(one, two).cross([*stored, _stored(one, TEXTS[0])])
    for reason, document in zip(documents, found, strict=False):
        assert reason in document.left_out
        assert len(document.document) == document.targets.rows == 0
    assert found[-1].left_out is None
    joined = SpanTargets.concatenate([document.targets for document in found])
    assert joined.rows == found[-1].targets.rows
    lower = Crossing(one, _sentencepiece(prefix=False, lower=True))
    (document,) = lower.cross([_stored(one, TEXTS[0])])
    assert "does not give its text back" in document.left_out


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused():
    core = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    with pytest.raises(TokenizerError, match=r"which bytes its tokens stand for.*WordPiece"):
        TokenBytes.of(tokenizer)


def test_spans_that_do_not_lie_in_the_rows_are_refused():
    nothing = np.zeros(0, dtype=np.int64)
    given = {"bytes_S": nothing, "aligned_A": nothing, "targets": None, "rows": 4}
    with pytest.raises(SettingError, match="one after another"):
        SpanTargets(
            starts_S=np.array([2, 3]),
            lengths_S=np.array([2, 1]),
            teacher_S=np.zeros(2, dtype=np.float32),
            **given,
        )


def test_the_tool_tells_overlap_and_spans_of_a_pair(tokenizers, tmp_path, monkeypatch, capsys):
    for name in ("store", "pieces"):
        tokenizers[name].save_pretrained(tmp_path / name)
    (tmp_path / "text").write_text(" ".join(TEXTS), encoding="utf-8")
    folders = [str(tmp_path / name) for name in ("store", "pieces")]
    monkeypatch.setattr("sys.argv", ["across", *folders, "--text", str(tmp_path / "text")])
    main()
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("store and pieces: overlap 0.")
    assert "0 of 1 documents left out" in told[1]
    assert "tokens in one" in told[2]
