"""Students narrower than their teacher, against the teacher with zeros where they have nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore.errors import ModelError, SettingError
from tools.architecture_configs import BASE, FAMILIES
from tools.tiny_teacher import texts, tiny_tokenizer
from trainer.cli import app
from trainer.pruning.importance import drawn_ids
from trainer.pruning.narrow import choose_cut
from trainer.pruning.narrow_agreement import refuse_other_narrow
from trainer.pruning.sizes import narrowing

WIDTH, NARROW = 32, 24
# With no epsilon, zeros change a root mean square by a factor that is known.
_EXACT = {"rms_norm_eps": 1e-20}

# What writes to the residual stream, by the end of its name, and the axis of its channels.
_WRITING = {
    "embed_tokens.weight": 1,
    "o_proj.weight": 0,
    "o_proj.bias": 0,
    "down_proj.weight": 0,
    "experts.down_proj": 1,
}
RMS_FAMILIES = {
    "llama": _WRITING,
    "llama:tied": _WRITING,
    "llama:bfloat16": _WRITING,
    "qwen2": _WRITING,
    "qwen3": _WRITING,
    "qwen3_moe": _WRITING,
    "phi3": _WRITING,
    "gemma": _WRITING,
    "gemma2": _WRITING,
    "gemma3_text": _WRITING,
    "olmo2": _WRITING,
    "granite": _WRITING,
    "mixtral": _WRITING,
    "gpt_oss": {**_WRITING, "experts.down_proj": 2, "experts.down_proj_bias": 1},
}


def made(name: str, folder: Path, **changes: Any) -> Path:
    """A teacher of the family with fresh weights, its norms with visible ones too."""
    settings = {**BASE, **FAMILIES[name], **changes}
    dtype = torch.bfloat16 if settings.pop("dtype", "") == "bfloat16" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = AutoConfig.for_model(name.partition(":")[0], **settings)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    return folder


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    ids_BL = torch.arange(1, 41)[None] * 7 % 290 + 1
    with torch.inference_mode():
        return model(input_ids=ids_BL, use_cache=False).logits


def kept_rows(whole: torch.Tensor, part: torch.Tensor) -> list[int]:
    """Which rows of `whole` are the rows of `part`, which may be larger all together."""
    whole, part = whole.detach(), part.detach()
    cosines = functional.normalize(part.double()) @ functional.normalize(whole.double()).T
    assert float(cosines.max(1).values.min()) > 0.999
    return cosines.argmax(1).tolist()


@pytest.mark.parametrize("name", RMS_FAMILIES)
def test_a_narrow_student_is_its_teacher_with_zeros_in_the_other_channels(
    name: str, tmp_path: Path
) -> None:
    teacher = made(name, tmp_path / "teacher", **_EXACT)
    done = trainer.make_student(teacher=teacher, width=NARROW, out=tmp_path / "student")
    assert (done["width"], done["teacher_width"], done["layers"]) == (NARROW, WIDTH, [0, 1])
    student, zeroed = loaded(tmp_path / "student"), loaded(teacher)
    assert student.config.hidden_size == NARROW
    tables = [one.get_input_embeddings().weight.T for one in (zeroed, student)]
    kept = kept_rows(*tables)
    assert kept == sorted(set(kept))
    others = torch.tensor([one for one in range(WIDTH) if one not in kept])
    head = copy.deepcopy(zeroed.get_output_embeddings().weight.data)
    with torch.no_grad():
        for parameter_name, parameter in zeroed.named_parameters():
            for end, axis in RMS_FAMILIES[name].items():
                if parameter_name.endswith(end):
                    parameter.index_fill_(axis, others, 0.0)
    if zeroed.config.tie_word_embeddings:
        assert not torch.equal(head, zeroed.get_output_embeddings().weight)
    tolerance = 2e-2 if name == "llama:bfloat16" else 2e-5
    wanted = logits(zeroed)
    largest = float(wanted.abs().max())
    assert float((logits(student) - wanted).abs().max()) < tolerance * largest
    assert float((wanted - logits(loaded(teacher))).abs().max()) > 0.1 * largest


@pytest.mark.parametrize("name", ["starcoder2", "phi", "cohere"])
def test_means_of_a_layer_norm_are_over_the_kept_channels(name: str, tmp_path: Path) -> None:
    """In place of each norm of the teacher stands one written here."""
    teacher = made(name, tmp_path / "teacher")
    trainer.make_student(teacher=teacher, width=NARROW, out=tmp_path / "student")
    student, zeroed = loaded(tmp_path / "student"), loaded(teacher)
    kept = kept_rows(*(one.get_input_embeddings().weight.T for one in (zeroed, student)))
    mask_D = torch.zeros(WIDTH)
    mask_D[kept] = 1
    eps = getattr(student.config, "norm_epsilon", None) or student.config.layer_norm_eps

    def norm(module: Any, given: Any, _: Any) -> torch.Tensor:
        kept_D = functional.layer_norm(given[0][..., kept], (NARROW,), eps=eps)
        bias_D = getattr(module, "bias", None)
        output = torch.zeros_like(given[0])
        output[..., kept] = kept_D * module.weight[kept] * (WIDTH / NARROW) ** 0.5
        return output if bias_D is None else output + bias_D * mask_D

    for module in zeroed.modules():
        if type(module).__name__.endswith("LayerNorm"):
            module.register_forward_hook(norm)
    torch.testing.assert_close(logits(student), logits(zeroed), atol=1e-4, rtol=1e-4)


# The projection that writes what a neuron gives, the axis of the neurons in it, and where rows of
# the first projection stand by which they are told apart.
MLPS = {
    "llama": ("mlp.down_proj", 1, "mlp.up_proj"),
    "gemma3_text": ("mlp.down_proj", 1, "mlp.up_proj"),
    "gpt2": ("mlp.c_proj", 0, "mlp.c_fc"),
    "gpt_neox": ("mlp.dense_4h_to_h", 1, "mlp.dense_h_to_4h"),
    "phi3": ("mlp.down_proj", 1, "mlp.gate_up_proj"),
    "olmo": ("mlp.down_proj", 1, "mlp.up_proj"),
    "deepseek_v3": ("layers.0.mlp.down_proj", 1, "layers.0.mlp.up_proj"),
    "opt": ("fc2", 1, "fc1"),
}


@pytest.mark.parametrize("name", MLPS)
def test_a_student_of_fewer_neurons_is_its_teacher_without_the_others(
    name: str, tmp_path: Path
) -> None:
    teacher = made(name, tmp_path / "teacher")
    done = trainer.make_student(teacher=teacher, intermediate=20, out=tmp_path / "student")
    assert (done["intermediate"], done["teacher_intermediate"]) == (20, 48)
    student, zeroed = loaded(tmp_path / "student"), loaded(teacher)
    writing, axis, reading = MLPS[name]
    chosen = []
    for module_name, module in zeroed.named_modules():
        if not module_name.endswith(f".{writing}"):
            continue
        place = module_name.removesuffix(writing) + reading
        whole, part = (one.get_submodule(place).weight for one in (zeroed, student))
        kept = kept_rows(*((one.T if axis == 0 else one) for one in (whole, part)))[:20]
        others = [one for one in range(48) if one not in kept]
        with torch.no_grad():
            module.weight.index_fill_(axis, torch.tensor(others), 0.0)
        chosen.append(kept)
    assert len(chosen) == (1 if name == "deepseek_v3" else 2)
    assert name == "deepseek_v3" or chosen[0] != chosen[1], "each layer has its own"
    torch.testing.assert_close(logits(student), logits(zeroed), atol=1e-4, rtol=1e-4)
    assert float((logits(student) - logits(loaded(teacher))).abs().max()) > 1e-2


def hidden_in_a_wider_one(folder: Path, tmp_path: Path, places: dict[str, torch.Tensor]) -> Any:
    """A Llama of width 24 with 20 neurons, and in `folder` a wider teacher that computes the same.

    Its other channels and neurons hold nothing but noise that is too small to count.
    """
    narrow = loaded(made("llama", tmp_path / "n", hidden_size=24, intermediate_size=20, head_dim=8,
                         **_EXACT))  # fmt: skip
    wide = loaded(made("llama", tmp_path / "w", head_dim=8, **_EXACT))
    small = dict(narrow.named_parameters())
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            part = small[name].data
            if "norm" in name:
                part = part * (24 / WIDTH) ** 0.5
            for axis in range(parameter.ndim):
                size = parameter.shape[axis]
                if size != part.shape[axis]:
                    chosen = places["channels" if size == WIDTH else "neurons"]
                    spread = torch.randn(*part.shape[:axis], size, *part.shape[axis + 1 :]) * 1e-9
                    part = spread.index_copy_(axis, chosen, part)
            parameter.copy_(part)
    wide.save_pretrained(folder)
    return narrow


def test_a_narrow_model_is_found_in_a_wider_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    places = {
        "channels": torch.randperm(WIDTH, generator=generator)[:24].sort().values,
        "neurons": torch.randperm(48, generator=generator)[:20].sort().values,
    }
    narrow = hidden_in_a_wider_one(tmp_path / "teacher", tmp_path, places)
    done = trainer.make_student(
        teacher=tmp_path / "teacher", width=24, intermediate=20, out=tmp_path / "student"
    )
    assert done["kept_energy"] == pytest.approx(1, abs=1e-6)
    student = loaded(tmp_path / "student")
    for name, parameter in narrow.named_parameters():
        found = dict(student.named_parameters())[name]
        torch.testing.assert_close(found, parameter, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(logits(student), logits(narrow), atol=1e-4, rtol=1e-4)


def test_layers_channels_and_neurons_together(tmp_path: Path) -> None:
    """First the layers, then the rest of what they leave."""
    teacher = made("qwen3", tmp_path / "teacher", num_hidden_layers=4)
    out = tmp_path / "both"
    sizes: dict[str, Any] = {"width": NARROW, "intermediate": 20}
    done = trainer.make_student(teacher=teacher, layers="0,3", out=out, **sizes)
    assert (done["layers"], done["teacher_layers"], done["width"]) == ([0, 3], 4, NARROW)
    assert done["parameters"] < done["teacher_parameters"]
    trainer.make_student(teacher=teacher, layers="0,3", out=tmp_path / "first")
    trainer.make_student(teacher=tmp_path / "first", out=tmp_path / "second", **sizes)
    found, wanted = (loaded(one).state_dict() for one in (out, tmp_path / "second"))
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor)
    assert sorted(one.name for one in out.iterdir() if "safetensors" in one.name) == [
        "model.safetensors"
    ]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("gpt2", {"width": 24}, r"cannot cut this family \(found .*c_attn"),
        ("gptj", {"width": 24}, r"cannot cut this family \(found .*head_dim 8, 6"),
        ("opt", {"width": 24}, r"cannot cut this family \(found .*head_dim 8, 6"),
        ("olmoe", {"width": 24}, r"cannot cut this family \(found .*k_norm"),
        ("olmo", {"width": 24}, "its norms have no weights"),
        ("jamba", {"width": 24}, "cannot cut this family"),
        ("llama", {"width": 30}, r"multiple of the number.*Choose a multiple of its 4 heads"),
        ("mixtral", {"intermediate": 20}, "as where experts share a tensor"),
        ("qwen3_moe", {"intermediate": 20}, "no size that one number says"),
        ("llama", {"width": 32}, r"width: the teacher is not larger .*allowed: 1 to 31"),
        ("llama", {"intermediate": 48}, r"intermediate: the teacher is not larger .*1 to 47"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused_before_weights_are_read(
    name: str, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    teacher = made(name, tmp_path / "teacher")
    (teacher / "model.safetensors").write_bytes(b"")
    with pytest.raises((ModelError, SettingError), match=message):
        trainer.make_student(teacher=teacher, out=tmp_path / "student", **given)
    assert [one.name for one in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize("name", ["helium", "bitnet"])
def test_what_only_a_run_shows_is_refused_too(name: str, tmp_path: Path) -> None:
    teacher = made(name, tmp_path / "teacher")
    with pytest.raises(ModelError, match="the narrower model cannot be run"):
        trainer.make_student(teacher=teacher, width=24, out=tmp_path / "student")
    assert [one.name for one in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize("change", ["rope", "weight"])
def test_the_proof_sees_another_model(change: str, tmp_path: Path) -> None:
    teacher = loaded(made("llama", tmp_path / "teacher"))
    narrow = narrowing(teacher.config, width=24, intermediate=None, place="here")
    cut = choose_cut(teacher, narrow, {}, place="here")
    trainer.make_student(teacher=tmp_path / "teacher", width=24, out=tmp_path / "student")
    if change == "rope":
        config = json.loads((tmp_path / "student/config.json").read_text())
        config["rope_parameters"]["rope_theta"] = 50.0
        (tmp_path / "student/config.json").write_text(json.dumps(config))
    student = loaded(tmp_path / "student")
    if change == "weight":  # the head reads another channel than the one that it is given
        cut.places["lm_head.weight"] = {1: cut.channels.flip(0)}
    with pytest.raises(ModelError, match="does not compute what the teacher does with zeros"):
        refuse_other_narrow(teacher, student, narrow, cut, place="here")


def test_ids_are_drawn_by_the_teacher_and_alike_each_time(tmp_path: Path) -> None:
    """A teacher that knows one id draws that one; special ids it never draws."""
    model = loaded(made("llama", tmp_path / "teacher"))
    ids_BL = drawn_ids(model)
    assert ids_BL.shape == (8, 64)
    assert torch.equal(ids_BL, drawn_ids(model))
    assert int(ids_BL.min()) > 0, "0 is the special id"
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.register_forward_hook(lambda *given: given[2].index_fill(
            -1, torch.tensor([77]), 100.0))  # fmt: skip
    assert bool((drawn_ids(model)[:, 1:] == 77).all())


def test_a_narrow_student_learns_from_a_store_of_its_teacher(tmp_path: Path) -> None:
    teacher = made("llama", tmp_path / "teacher", tie_word_embeddings=True)
    tiny_tokenizer().save_pretrained(teacher)
    logitstore.dump(teacher=teacher, data=texts(5), out=tmp_path / "store", max_length=64)
    trainer.make_student(teacher=teacher, width=28, out=tmp_path / "student")
    done = trainer.fit(
        logits=tmp_path / "store", student=tmp_path / "student", out=tmp_path / "run", steps=1
    )
    assert done["metrics"]["loss"] > 0
    assert AutoConfig.from_pretrained(tmp_path / "run").hidden_size == 28


def test_the_command_says_what_was_kept(tmp_path: Path) -> None:
    teacher = made("llama", tmp_path / "teacher")
    words = ["student", "--from", teacher, "--out", tmp_path / "student"]
    run = CliRunner().invoke(app, [*map(str, words), "--width", "24", "--intermediate", "16"])
    assert run.exit_code == 0, run.stderr
    layers, channels, neurons, *_ = run.stdout.splitlines()
    assert layers == f"{tmp_path / 'student'}: layers 0,1 of 2"
    assert channels.startswith("24 of 32 channels, ")
    assert neurons == "16 of 48 neurons of each MLP"
    run = CliRunner().invoke(app, [*map(str, words)])
    assert run.exit_code == 2
    assert "allowed: --layers, --width, --intermediate" in run.stderr
