"""A short form of `tools.torture_flips`, and the way out of a store that rots before its seal."""

import shutil
from pathlib import Path

import pytest

import logitstore
from logitstore.errors import CorruptionError
from tools.torture_flips import attack_equal_sizes, attack_sealed, attack_unfinished, unseal
from tools.torture_store import CONTAINERS, make_scene, shard_bytes


def test_what_is_flipped_or_swapped_in_a_sealed_store_is_refused_by_name(tmp_path):
    outcomes = attack_sealed(make_scene(tmp_path), flips=20, swaps=12, seed=0)
    assert outcomes.total == 32 * 4
    assert outcomes.wrong == 0
    assert outcomes.of("refused") >= 80


def test_files_of_equal_size_change_places(tmp_path):
    outcomes = attack_equal_sizes(make_scene(tmp_path, records=48), most=3)
    assert outcomes.total >= 4 * len(CONTAINERS)
    assert outcomes.wrong == 0


def test_rot_before_the_seal_does_not_become_the_truth(tmp_path):
    outcomes = attack_unfinished(make_scene(tmp_path), count=12, seed=1)
    assert outcomes.total == 12
    assert outcomes.wrong == 0
    assert outcomes.of("refused") >= 3


@pytest.mark.parametrize("name", ["plan.json", "commits/000000.json"])
@pytest.mark.parametrize("fault", [lambda data: data.replace(b"1", b"2"), lambda data: data[:99]])
def test_a_small_file_that_rots_before_the_seal_is_made_anew(tmp_path, name, fault):
    scene = make_scene(tmp_path)
    scene.dump(tmp_path / "whole", container="parquet")
    scene.dump(tmp_path / "store", container="parquet")
    unseal(tmp_path / "store", unit=True)
    file = tmp_path / "store" / name
    file.write_bytes(fault(file.read_bytes()))
    with pytest.raises(CorruptionError, match="Delete it and run the same command again") as error:
        scene.dump(tmp_path / "store", container="parquet")
    assert error.value.place == str(file)
    file.unlink()
    scene.dump(tmp_path / "store", container="parquet")
    assert shard_bytes(tmp_path / "store") == shard_bytes(tmp_path / "whole")


def test_a_lost_spec_is_told_and_nothing_is_made_anew(tmp_path):
    scene = make_scene(tmp_path)
    scene.dump(tmp_path / "store", container="parquet")
    unseal(tmp_path / "store", unit=False)
    spec = tmp_path / "store" / "store.json"
    kept = spec.read_bytes()
    for damage in (spec.unlink, lambda: spec.write_bytes(kept[:-9])):
        damage()
        with pytest.raises(CorruptionError, match="Put a copy of it back") as error:
            scene.dump(tmp_path / "store", container="parquet")
        assert error.value.place == str(spec)
    spec.write_bytes(kept)
    scene.dump(tmp_path / "store", container="parquet")
    assert not list(logitstore.verify(tmp_path / "store"))


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_unit_that_was_made_with_other_settings_is_not_sealed(tmp_path, container):
    scene = make_scene(tmp_path)
    for name, options in (("whole", {}), ("store", {}), ("other", {"fidelity": "compact"})):
        scene.dump(tmp_path / name, container=container, **options)
    store = tmp_path / "store"
    unseal(store, unit=False)
    for path in (tmp_path / "other" / "data").glob("000000-*"):
        shutil.copytree(path, store / "data" / path.name)
    shutil.copy(tmp_path / "other" / "commits" / "000000.json", store / "commits")
    with pytest.raises(CorruptionError, match="made with other settings") as error:
        scene.dump(store, container=container)
    assert error.value.place == str(store / "commits" / "000000.json")
    Path(error.value.place).unlink()  # as the message says
    scene.dump(store, container=container)
    assert shard_bytes(store) == shard_bytes(tmp_path / "whole")
