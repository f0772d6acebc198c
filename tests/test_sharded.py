"""Two processes, sharded or not: the gradient of one process, exact resume, a whole result.

One step of plain SGD at a rate of 1,000 changes the weights by 1,000 times the gradient of the
step, gathered from all processes by what writes the result: against that change the weights
themselves are rounding.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import trainer
from logitstore.errors import SettingError
from tests.forked import start
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS
from trainer.training.run_record import read_record, write_record

# Four micro-batches to a step: two for each of two processes.
SETTINGS = {"batch_tokens": 64, "micro_tokens": 16, "log_steps": 1}
RATE = 1000.0
GRADIENT = {"lr": RATE, "steps": 1, "warmup_steps": 0, "weight_decay": 0, "max_grad_norm": 0}
SHARDS = 'fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"}'
LAUNCHED = {  # what `accelerate launch` says of fsdp_version 2
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
WAYS = {
    "DDP": ([], {}),
    "FSDP2": (["fsdp=true"], {}),
    "FSDP2 by accelerate": ([], LAUNCHED),
    **{f"ZeRO {stage}": ([f"deepspeed=zero{stage}.json"], {}) for stage in (1, 2, 3)},
}


@pytest.fixture
def config(tmp_path):
    """A student with tied embeddings: its output layer is sharded with the rest of the model."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"the": "tokenizer"}')
    content = CONFIGS["llama"].to_dict() | {"tie_word_embeddings": True}
    (tmp_path / "student.json").write_text(json.dumps(content))
    for stage in (1, 2, 3):
        content = {
            "zero_optimization": {
                "stage": stage,
                "stage3_gather_16bit_weights_on_model_save": True,
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "train_batch_size": "auto",
        }
        (tmp_path / f"zero{stage}.json").write_text(json.dumps(content))
    return tmp_path / "student.json"


def two_processes(out, config, settings, *, worker="sharded_worker", **environment):
    """What each of two ranks wrote on standard error; the exit status of both is the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        start(
            f"tests.{worker}",
            *(out, config, json.dumps(SETTINGS | settings)),
            cwd=config.parent,
            **common | environment,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            DS_ACCELERATOR="cpu",
        )
        for rank in range(2)
    ]
    told = [rank.communicate()[1] for rank in ranks]
    assert len({rank.returncode for rank in ranks}) == 1, told
    return ranks[0].returncode, told


def gradient(out, start):
    """float64 [all weights]: that of the only step of a run."""
    found = load_file(out / "model.safetensors")
    assert found.keys() == start.keys()
    return (
        torch.cat([(start[name].double() - found[name].double()).flatten() for name in start])
        / RATE
    )


@pytest.mark.parametrize("way", WAYS)
def test_gradient_of_two_processes_is_that_of_one(tmp_path, config, way):
    given, environment = WAYS[way]
    if "ZeRO" in way and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    settings = SETTINGS | GRADIENT
    store = MemoryStore(tokenizer=tmp_path / "tokenizer")
    common = settings | {"logits": store, "student": config, "device": "cpu"}
    trainer.fit(**common | {"lr": 1e-30}, out=tmp_path / "start")
    trainer.fit(**common, out=tmp_path / "one", set=["optim=sgd"])
    out = tmp_path / "two"
    worker = "fit_worker" if way == "DDP" else "sharded_worker"
    changes = GRADIENT | {"set": ["optim=sgd", *given]}
    status, told = two_processes(out, config, changes, worker=worker, **environment)
    assert status == 0, told
    # DDP's own line: where accelerate had not sharded anything, it would be there.
    assert any("reducer.cpp" in one for one in told) == (way == "DDP"), told
    start = load_file(tmp_path / "start" / "model.safetensors")
    expected, found = (gradient(tmp_path / name, start) for name in ("one", "two"))
    assert expected.norm() > 0.1
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    histories = [json.loads((tmp_path / n / "history.json").read_text()) for n in ("one", "two")]
    for name in ("loss", "ce", "kl", "grad_norm", "targets"):
        assert histories[1][0][name] == pytest.approx(histories[0][0][name], rel=1e-6)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_sharded_run_resumes_bit_by_bit_and_measures(tmp_path, config):
    settings = {
        "lr": 1e-3,
        "steps": 4,
        "save_steps": 2,
        "keep_checkpoints": True,
        "set": ["fsdp=true", SHARDS],
        "eval_logits": "held",
        "eval_steps": 2,
    }
    out, again = tmp_path / "run", tmp_path / "again"
    assert two_processes(out, config, settings)[0] == 0
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoint-4")
    (again / "model.safetensors").unlink()
    record = read_record(again)
    of_a_result = ("files", "metrics", "seconds", "best")
    unfinished = {name: value for name, value in record.items() if name not in of_a_result}
    write_record(again, unfinished | {"finished": False})
    status, told = two_processes(again, config, settings | {"resume": True})
    assert status == 0, told
    one, other = (load_file(folder / "model.safetensors") for folder in (out, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    plain = {name: value for name, value in settings.items() if name not in ("set", "eval_logits")}
    trainer.fit(
        **SETTINGS | plain,
        logits=MemoryStore(tokenizer=tmp_path / "tokenizer"),
        eval_logits=MemoryStore(blocks=2, seed=1),
        student=config,
        out=tmp_path / "plain",
        device="cpu",
    )
    for name in ("loss", "kl"):
        measured = [
            [one[f"eval_{name}"] for one in json.loads((folder / "held_out.json").read_text())]
            for folder in (again, tmp_path / "plain")
        ]
        assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def test_what_would_not_be_sharded_or_not_be_whole_again_is_refused(tmp_path, config):
    common = SETTINGS | {"logits": MemoryStore(), "student": config, "device": "cpu", "steps": 1}
    asked = {"set": ["fsdp=true"], "out": tmp_path / "run"}
    for more, told in (
        ({}, r"several processes, and there is one.*torchrun"),
        ({"keep_best": True, "eval_logits": MemoryStore(seed=1)}, "keep.best with FSDP"),
        ({"lora": "r=2"}, "lora.result merged with FSDP"),
    ):
        with pytest.raises(SettingError, match=told):
            trainer.fit(**common | asked | more)
    status, errors = two_processes(
        tmp_path / "run", config, {"steps": 1, "set": ["fsdp=true"]}, worker="fit_worker"
    )
    assert status == 1
    assert "on the CPU each process would hold all of it" in errors[0]
    assert not (tmp_path / "run").exists()
