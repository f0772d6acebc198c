"""Fixtures that more than one test module needs: a tiny tokenizer, made on the spot."""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.azurite_server import azurite_server, make_container
from tools.fault_proxy import FaultProxy, fault_proxy
from tools.s3_server import ENVIRONMENT, make_bucket, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Sums on a CPU depend on the number of threads, and results are compared bit by bit between this
# process and the ones it starts: all of them take one.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# What a shell starts in the background ignores ctrl-C, and so would every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Properties are tried on the same examples each time, so that a test fails for all or for nobody.
hypothesis.settings.register_profile(
    "suite", derandomize=True, deadline=None, max_examples=60, database=None
)
hypothesis.settings.load_profile("suite")

_TRAINING_TEXT = [
    "The teacher reads the text once and the student reads what the teacher wrote.",
    "A target is the distribution of the next token given the tokens before it.",
]


@pytest.fixture(autouse=True, scope="module")
def _imported_for_good() -> None:
    """What is there when a module begins stays, and no run looks through it for garbage.

    accelerate has all garbage collected at the beginning and the end of each run: 0.3 s every time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 ids, <|endoftext|> its only special token. Not to be changed."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_TRAINING_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


@pytest.fixture(scope="session")
def tokenizer_folder(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder in which that tokenizer is saved."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def teacher_folder(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small Llama, not trained but far from uniform, its logits padded from 300 to 304."""
    folder = tmp_path_factory.mktemp("teacher")
    config = LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def unpadded_teacher(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same teacher without its columns that are no token: as a student it is the teacher."""
    folder = tmp_path_factory.mktemp("unpadded")
    model = LlamaForCausalLM.from_pretrained(teacher_folder)
    model.resize_token_embeddings(300)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(teacher_folder / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def _s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(_s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a path in a fresh bucket of a real S3 server, which the environment names."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": _s3}.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(8)}"
    make_bucket(_s3, name)
    return f"s3://{name}/stores/one"


@pytest.fixture(scope="session")
def _azurite() -> Iterator[dict[str, str]]:
    with azurite_server() as environment:
        yield environment


@pytest.fixture
def azure(_azurite: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a path in a fresh container of a real server of Azure's protocol."""
    for name, value in _azurite.items():
        monkeypatch.setenv(name, value)
    name = f"container-{secrets.token_hex(8)}"
    make_container(_azurite["AZURE_STORAGE_ENDPOINT"], name)
    return f"az://{name}/stores/one"


@pytest.fixture(scope="session")
def _proxy(_s3: str) -> Iterator[FaultProxy]:
    with fault_proxy(_s3) as proxy:
        yield proxy


@pytest.fixture
def proxy(_proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """A proxy without rules yet, through which `bucket` is reached."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", _proxy.url)
    _proxy.rules()
    return _proxy
