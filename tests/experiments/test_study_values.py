"""The values of a study's runs: files of them, and which are compared."""

import pytest
import torch

from experiments.study.definition import Study
from experiments.study.effects import effect
from experiments.study.measured import gather
from experiments.study.record import notes, table
from experiments.study.run_values import RunValues, read, write
from losses import InvalidSetting


def of_run(seed=0, **changes):
    """The values of a run, of eight images."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"a (mean)": {"ssim": torch.rand(8, generator=generator)}, "a (mode)": {}}
    pictures = {"truth": torch.randint(256, (2, 3, 4, 4), generator=generator, dtype=torch.uint8)}
    found = {"made": {"measured": ["ssim"]}, "values": rows, "probes": {"linear/mean/4/1": torch.ones(3)}}
    found |= {"pictures": pictures, "own": [("a (mean)", "ssim")], "images": "one", "core_hours": 0.5}
    return RunValues(**(found | changes))


def test_values_are_read_as_they_were_written(tmp_path):
    run = of_run(values={"a (mean)": {"invented/band=3": torch.rand(8), "ssim": torch.tensor([torch.nan, 1.0])}})
    write(tmp_path / "new/a-0.npz", run)
    found = read(tmp_path / "new/a-0.npz")
    assert {name: vars(found)[name] for name in ("made", "own", "images", "core_hours")} == {
        name: vars(run)[name] for name in ("made", "own", "images", "core_hours")
    }
    for theirs, ours in ((found.values["a (mean)"], run.values["a (mean)"]), (found.pictures, run.pictures)):
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key].nan_to_num(-1), ours[key].nan_to_num(-1)) for key in ours)
    assert torch.equal(found.probes["linear/mean/4/1"], torch.ones(3))
    assert read(tmp_path / "none.npz") is None
    whole = (tmp_path / "new/a-0.npz").read_bytes()
    damaged = [whole[:2], whole[: len(whole) // 2], whole[:-1]]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(60, 240, 20)
    ]  # of the first array
    for content in damaged:
        (tmp_path / "damaged.npz").write_bytes(content)
        with pytest.raises(InvalidSetting, match="remove it"):
            read(tmp_path / "damaged.npz")


def test_rows_are_compared_over_the_seeds_that_both_have():
    """As if the study asked for those seeds alone; a row that shares none with the reference is not compared."""
    values = {(row, seed): torch.rand(50) + (row == "b") for row in "abc" for seed in (0, 1, 2)}
    runs = {key: of_run(values={key[0]: {"ssim": found}}) for key, found in values.items()}
    have = {"a": [0, 1], "b": [0, 1, 2], "c": [2]}
    found = gather({(row, seed): run for (row, seed), run in runs.items() if seed in have[row]})
    whole = gather({(row, seed): run for (row, seed), run in runs.items() if seed in (0, 1)})
    assert found.seeds == have and found.effects("ssim")["b"].seeds == 3
    assert found.differences(["ssim"], "a") == {
        ("b", "ssim"): effect(whole.values["b"]["ssim"] - whole.values["a"]["ssim"])
    }


def test_reconstructions_of_other_masks_are_not_compared_but_probes_are():
    study = Study("", {}, {"a": {}, "b": {}, "c": {}}, [0, 1], "a", {"ssim": "SSIM", "linear/mean/4/1": "linear"})
    values = {"ssim": torch.rand(8)}
    runs = {
        ("a", 0): of_run(values={"a": values}),
        ("b", 0): of_run(values={"b": values}, images="others"),
        ("c", 0): of_run(values={}, images=""),
    }
    found = gather(runs | {(variant, 1): run for (variant, _), run in runs.items()})
    assert set(found.differences(study.measured, "a")) == {("b", "linear/mean/4/1"), ("c", "linear/mean/4/1")}
    lines = table(study, found, {})
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| a", "| b †", "| c"] and "| - |" in lines[4]
    assert [note.split(":")[0] for note in notes(study, found)] == ["-", "†", "c"]
    with pytest.raises(InvalidSetting, match="other images than with the seeds before"):
        gather({("a", 0): of_run(values={"a": values}), ("a", 1): of_run(values={"a": values}, images="x")})
