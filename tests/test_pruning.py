"""Students of some of their teacher's layers: each layer stays what it was, or is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore.errors import ModelError, SettingError, StoreError
from tests.tiny_models import tiny
from tools.architecture_configs import BASE, FAMILIES
from tools.tiny_teacher import make_teacher, texts, tiny_tokenizer
from trainer.cli import app
from trainer.pruning import agreement, making
from trainer.pruning.configuration import Kept, kept_configuration

LAYERS = 6
_TYPES = ["sliding_attention", "sliding_attention", "full_attention"] * 2
_WINDOW = {"layer_types": _TYPES, "sliding_window": 32}

# Six layers of each, of several kinds where the family has several.
DEEP: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama:tied": {"tie_word_embeddings": True},
    "llama:bfloat16": {},
    "qwen2:window": {"max_window_layers": 3},
    "qwen3": {},
    "gemma2": {"sliding_window": 32},
    "gemma3_text": _WINDOW,
    "gpt2": {"n_layer": LAYERS},
    "gpt_neo": {"num_layers": LAYERS, "attention_types": [[["global", "local"], 3]]},
    "gpt_neox": {},
    "mistral": {},
    "phi3": {},
    "olmo2": {},
    "mixtral": {},
    "qwen3_moe": {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "deepseek_v3": {"first_k_dense_replace": 3},
    "smollm3": {"no_rope_layers": [1, 1, 0] * 2},
    "mamba": {},
    "falcon_h1": {},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "attention"] * 2},
    "recurrent_gemma": {},
    "bamba": {"attn_layer_indices": [1, 4]},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "llama4_text": {"no_rope_layers": [1, 1, 0] * 2, "moe_layers": [0, 3, 4]},
    "opt": {},
    "bloom": {"n_layer": LAYERS},
}


def made(name: str, folder: Path, **changes: Any) -> Path:
    """A teacher of the family with fresh weights and six layers, in `folder`."""
    kind = name.partition(":")[0]
    settings = {**BASE, "num_hidden_layers": LAYERS, **FAMILIES.get(name, {}), **changes}
    settings = settings | ({"num_hidden_layers": LAYERS} if "n_layer" not in settings else {})
    dtype = torch.bfloat16 if settings.pop("dtype", "") == "bfloat16" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    model.to(dtype).save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module, length: int = 40) -> torch.Tensor:
    ids_BL = torch.arange(1, length + 1)[None] * 7 % 290 + 1
    with torch.inference_mode():
        return model.eval()(input_ids=ids_BL, use_cache=False).logits.float()


def without(folder: Path, kept: tuple[int, ...]) -> torch.nn.Module:
    """The teacher, with zeros for all weights of the layers that are not kept.

    In a residual stream such a layer adds nothing.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    lists = [one for one in model.modules() if isinstance(one, torch.nn.ModuleList)]
    (layers,) = [one for one in lists[:1] if len(one) == LAYERS]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            for parameter in layer.parameters() if number not in kept else ():
                parameter.zero_()
    return model


@pytest.mark.parametrize("name", DEEP)
def test_a_student_is_its_teacher_without_the_other_layers(name: str, tmp_path: Path) -> None:
    teacher = made(name, tmp_path / "teacher", **DEEP[name])
    whole = logits(AutoModelForCausalLM.from_pretrained(teacher))
    for number, layers in enumerate(("6", "every:2", "1,2,5")):
        out = tmp_path / f"student-{number}"
        done = trainer.make_student(teacher=teacher, layers=layers, out=out)
        assert done["difference"] <= 1e-6
        assert done["teacher_layers"] == LAYERS
        student = AutoModelForCausalLM.from_pretrained(out)
        wanted = without(teacher, tuple(done["layers"]))
        assert student.dtype == wanted.dtype
        torch.testing.assert_close(logits(student), logits(wanted), atol=1e-5, rtol=1e-4)
        unlike = float((logits(student) - whole).abs().max())
        assert (unlike > 0) == (layers != "6"), "a layer that is left out must show"
        parameters = sum(one.numel() for one in student.parameters())
        assert (done["parameters"], done["bytes"]) == (
            parameters,
            parameters * student.dtype.itemsize,
        )


@pytest.mark.parametrize(
    ("name", "changes", "layers", "message"),
    [
        ("gpt2", {"n_layer": LAYERS, "scale_attn_by_inverse_layer_idx": True}, "every:2",
         "by scale_attn_by_inverse_layer_idx, which cannot be written"),
        ("jamba", {"attn_layer_period": 3, "expert_layer_period": 2}, "0,2,3,5",
         "by expert_layer_period, which cannot be written"),
        ("diffllama", {}, "every:2", "as layer 1 of the student: its lambda_init follows from"),
        ("rwkv", {}, "1,3", r"other tensors under its new number.*0\.pre_ln"),
        ("gemma4_text", {"layer_types": _TYPES}, "every:2", "its is_sliding follows from"),
    ],
)  # fmt: skip
def test_a_layer_that_would_become_another_is_refused(
    name: str, changes: dict[str, Any], layers: str, message: str, tmp_path: Path
) -> None:
    teacher = made(name, tmp_path / "teacher", **changes)
    with pytest.raises(ModelError, match=rf"{message}.*Choose other layers \(layers\)"):
        trainer.make_student(teacher=teacher, layers=layers, out=tmp_path / "student")
    assert [one.name for one in tmp_path.iterdir()] == ["teacher"]
    others = {"jamba": "1,3,5", "rwkv": "0,3", "gemma4_text": "0,5"}.get(name, "first:3")
    trainer.make_student(teacher=teacher, layers=others, out=tmp_path / "student")


def test_periods_are_written_anew(tmp_path: Path) -> None:
    """Layers 2 and 5 of Jamba's have attention; of every second layer, number 1 of each 3."""
    settings = {"attn_layer_period": 3, "attn_layer_offset": 2, "expert_layer_offset": 0}
    teacher = made("jamba", tmp_path / "teacher", **settings)
    trainer.make_student(teacher=teacher, layers="every:2", out=tmp_path / "student")
    config = AutoConfig.from_pretrained(tmp_path / "student")
    assert config.layer_types == ["linear_attention", "full_attention", "linear_attention"]
    assert (config.attn_layer_offset, config.expert_layer_period) == (1, 1)


@pytest.mark.parametrize(
    ("kept", "start", "end", "interval"),
    [((0, 2, 4), 1, 2, 1), ((1, 3, 5), 0, 1, 1), ((0, 1, 2), 1, 2, 1), ((0, 5), 2, 2, 1)],
)
def test_a_range_of_experts_is_written_anew(
    kept: tuple[int, ...], start: int, end: int, interval: int
) -> None:
    """Ernie's layers 1 to 4 have experts."""
    config = AutoConfig.for_model(
        "ernie4_5_moe", **BASE | {"num_hidden_layers": 6}, moe_layer_end_index=4
    )
    cut = kept_configuration(config, Kept(kept, 6), place="here")
    found = (cut.moe_layer_start_index, cut.moe_layer_end_index, cut.moe_layer_interval)
    assert found == (start, end, interval)


def proof(teacher: torch.nn.Module, student: torch.nn.Module, kept: tuple[int, ...]) -> float:
    return agreement.refuse_other_model(teacher, student, Kept(kept, LAYERS), place="here")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Any]:
    """A teacher with windows, and its layers 0, 2 and 5."""
    teacher = made("gemma3_text", tmp_path / "teacher", **_WINDOW)
    trainer.make_student(teacher=teacher, layers=[0, 2, 5], out=tmp_path / "student")
    return tuple(
        AutoModelForCausalLM.from_pretrained(one).eval() for one in (teacher, tmp_path / "student")
    )


def test_the_proof_sees_another_weight(pair: tuple[Any, Any]) -> None:
    teacher, student = pair
    assert proof(teacher, student, (0, 2, 5)) == 0
    with pytest.raises(ModelError, match="not written and read as the teacher has it"):
        proof(teacher, student, (0, 1, 5))
    weight = student.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    with pytest.raises(ModelError, match=r"found model\.layers\.1\.mlp\.up_proj\.weight"):
        proof(teacher, student, (0, 2, 5))


def test_the_proof_sees_another_kind_of_layer(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = pair
    config = copy.deepcopy(student.config)
    config.layer_types = ["sliding_attention"] * 3
    other = type(student)(config).eval()
    other.load_state_dict(student.state_dict())
    with pytest.raises(ModelError, match="layer 2 would compute something else as layer 1"):
        proof(teacher, other, (0, 2, 5))
    monkeypatch.setattr(agreement, "_refuse_other_kind", lambda *_, **__: None)
    with pytest.raises(ModelError, match="does not compute what the teacher does"):
        proof(teacher, other, (0, 2, 5))


def test_only_a_text_beyond_its_window_shows_a_window(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one window for all layers, which no layer tells apart, and one rotation."""
    teacher, student = (tiny_mistral(window) for window in (32, 36))
    student.load_state_dict(teacher.state_dict())
    monkeypatch.setattr(agreement, "_refuse_other_kind", lambda *_, **__: None)
    assert agreement.probe_lengths(student) == [24, 44]
    with pytest.raises(ModelError, match="on 44 tokens"):
        proof(teacher, student, tuple(range(LAYERS)))
    monkeypatch.setattr(agreement, "probe_lengths", lambda _: [24])
    assert proof(teacher, student, tuple(range(LAYERS))) == 0


def tiny_mistral(window: int) -> Any:
    settings = BASE | {"num_hidden_layers": LAYERS, "sliding_window": window}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **settings)).eval()


def test_the_proof_sees_another_scale_outside_of_the_layers(tmp_path: Path) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(made("granite", tmp_path / "teacher"))
    config = copy.deepcopy(teacher.config)
    config.embedding_multiplier += 0.01
    student = type(teacher)(config).eval()
    student.load_state_dict(teacher.state_dict())
    with pytest.raises(ModelError, match="does not compute what the teacher does"):
        proof(teacher, student, tuple(range(LAYERS)))


@pytest.mark.parametrize("layers", ["0,6", "7", "first:7", "last:9"])
def test_layers_that_the_teacher_lacks_are_refused(layers: str, tmp_path: Path) -> None:
    teacher = made("llama", tmp_path / "teacher")
    (teacher / "model.safetensors").write_bytes(b"")  # they are not read for that
    with pytest.raises(SettingError, match=r"allowed: . to [56]"):
        trainer.make_student(teacher=teacher, layers=layers, out=tmp_path / "student")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A teacher of two layers, with a chat template and two ids that end a text."""
    folder = make_teacher(tmp_path / "teacher", chat=True)
    # Such a temperature, without a draw, is one that transformers does not write.
    settings = {"eos_token_id": [0, 7], "do_sample": False, "temperature": 0.5}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def test_what_lies_beside_the_weights_is_the_teachers(teacher: Path, tmp_path: Path) -> None:
    (teacher / "code.py").write_text("raise SystemExit")
    trainer.make_student(teacher=teacher, layers=1, out=tmp_path / "a" / "student")
    student = tmp_path / "a" / "student"
    names = {one.name for one in teacher.iterdir()} - {"code.py"}
    assert {one.name for one in student.iterdir()} == names
    assert "generation_config.json" in names
    assert "chat_template.jinja" in names
    for name in names - {"config.json", "model.safetensors"}:
        assert (student / name).read_bytes() == (teacher / name).read_bytes()
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["student"]
    mode = (student / "config.json").stat().st_mode
    assert (student / "model.safetensors").stat().st_mode == mode


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_written_in_the_type_that_is_asked_for(
    teacher: Path, tmp_path: Path, dtype: str
) -> None:
    out = tmp_path / "student"
    done = trainer.make_student(teacher=teacher, layers=1, out=out, save_dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    whole = AutoModelForCausalLM.from_pretrained(teacher)
    assert done["dtype"] == dtype
    assert model.dtype == getattr(torch, dtype)
    weight = whole.model.layers[0].mlp.up_proj.weight.to(model.dtype)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, weight)


def test_nothing_is_left_of_a_student_that_fails(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> float:
        assert len(list(tmp_path.glob(".student.*.tmp/model.safetensors"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "refuse_other_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.make_student(teacher=teacher, layers=1, out=tmp_path / "student")
    assert [one.name for one in tmp_path.iterdir()] == ["teacher"]


def test_an_empty_folder_is_taken_and_a_used_one_is_not(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    trainer.make_student(teacher=teacher, layers=1, out=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(StoreError, match="the folder is not empty"):
        trainer.make_student(teacher=teacher, layers=2, out=out)
    assert (out / "model.safetensors").read_bytes() == before


def test_what_no_student_is_made_of_is_refused(teacher: Path, tmp_path: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    cases: dict[str, tuple[dict[str, str], str]] = {
        "adapter": ({"adapter_config.json": "{}"}, "holds an adapter.*Merge it into that model"),
        "gguf": ({"a.gguf": "GGUF"}, r"not from a \.gguf file"),
        "quantised": (
            {"config.json": json.dumps(config | {"quantization_config": {"bits": 4}})},
            "its weights are quantised.*Name the model",
        ),
        "t5": ({"config.json": '{"model_type": "t5"}'}, "an encoder-decoder cannot be used"),
        "none": ({"config.json": '{"model_type": "abacus"}'}, "cannot be read.*abacus"),
    }
    for name, (files, message) in cases.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
        with pytest.raises(ModelError, match=message):
            trainer.make_student(teacher=tmp_path / name, layers=1, out=tmp_path / "student")
    with pytest.raises(SettingError, match=r"must be a name .*found LlamaForCausalLM"):
        trainer.make_student(teacher=tiny(), layers=1, out=tmp_path / "student")


def test_a_student_learns_from_a_store_of_its_teacher(tmp_path: Path) -> None:
    teacher = made("llama", tmp_path / "teacher", initializer_range=0.02)
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():  # most of what it knows stands outside of its layers
        model.get_input_embeddings().weight.mul_(10)
        model.get_output_embeddings().weight.mul_(20)
    model.save_pretrained(teacher)
    tiny_tokenizer().save_pretrained(teacher)
    logitstore.dump(teacher=teacher, data=texts(20), out=tmp_path / "store", max_length=64)
    trainer.make_student(teacher=teacher, layers="every:2", out=tmp_path / "student")
    losses = {}
    for name, student in (("own", "student"), ("fresh", "student/config.json")):
        done = trainer.fit(
            logits=tmp_path / "store",
            student=tmp_path / student,
            out=tmp_path / name,
            steps=2,
            batch_tokens=512,
            lr=1e-4,
            alpha=1.0,
            log_steps=1,
        )
        losses[name] = done["metrics"]["kl"]
    assert losses["own"] < 0.2 * losses["fresh"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "own").config.num_hidden_layers == 3


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["student", *map(str, words)])


def test_the_command_says_which_layers_were_taken(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    done = run("--from", teacher, "--layers", "last:1", "--out", out)
    assert done.exit_code == 0, done.stderr
    first, parameters, size = done.stdout.splitlines()
    assert first == f"{out}: layers 1 of 2"
    whole = sum(one.numel() for one in AutoModelForCausalLM.from_pretrained(teacher).parameters())
    assert parameters.endswith(f" of {whole:,} parameters")
    assert size.endswith(f" of {4 * whole:,} bytes")
    again = run("--from", teacher, "--layers", "1", "--out", out, "--json")
    assert again.exit_code == 1
    assert "is not empty" in json.loads(again.stdout)["error"]
    found = run("--from", teacher, "--layers", "1", "--out", tmp_path / "other", "--json")
    assert json.loads(found.stdout)["layers"] == [0]
    assert found.stderr == ""
    for layers, code in (("every:x", 2), ("0,0", 2), ("3", 1)):
        done = run("--from", teacher, "--layers", layers, "--out", tmp_path / "third")
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
        assert "--layers" in done.stderr
