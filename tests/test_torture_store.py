"""The stores that are attacked are what an attack needs, and what is counted is told."""

import logitstore
from tools.torture_store import CONTAINERS, SPARSIFIERS, Outcomes, content, make_scene, shard_bytes


def test_the_stores_have_several_units_blocks_and_draws(tmp_path):
    scene = make_scene(tmp_path)
    values = set()
    for container in CONTAINERS:
        for name, options in SPARSIFIERS.items():
            out = tmp_path / f"{container} {name}"
            scene.dump(out, container=container, **options)
            store = logitstore.open(out)
            assert len(store.commits) >= 2
            assert min(len(commit.blocks) for commit in store.commits) >= 2
            assert store.spec.sparsifier.draw_count == len(options.get("temperature", [1]))
            values.add(content(out))
    assert len(values) == len(SPARSIFIERS) * len(CONTAINERS)


def test_a_dump_made_again_is_the_same_apart_from_its_attempts(tmp_path):
    scene = make_scene(tmp_path)
    for name in ("one", "two"):
        scene.dump(tmp_path / name, container="parquet")
    scene.dump(tmp_path / "other", container="parquet", fidelity="compact")
    same = [shard_bytes(tmp_path / name) for name in ("one", "two", "other")]
    assert same[0] == same[1] != same[2]
    assert content(tmp_path / "one") == content(tmp_path / "two") != content(tmp_path / "other")


def test_outcomes_are_counted_and_what_is_wrong_is_told(capsys):
    outcomes = Outcomes(("refused", "wrong"))
    for _ in range(1234):
        outcomes.add("a flip", "refused")
    outcomes.add("a swap", "wrong", told="seed 3")
    assert (outcomes.total, outcomes.wrong) == (1235, 1)
    assert outcomes.table("attack").splitlines() == [
        "| attack | refused | wrong |",
        "|---|---|---|",
        "| a flip | 1,234 | 0 |",
        "| a swap | 0 | 1 |",
        "| all | 1,234 | 1 |",
    ]
    assert capsys.readouterr().err == "wrong: a swap: seed 3\n"
