"""Transfers by real processes, on CPUs through gloo: two train what one does, and end together."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from losses import InvalidSetting
from recon.dense import transfer_results as results
from recon.dense.transfer_recipes import recipe_of
from recon.folder_lock import locked
from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.launched import forked, ranks, said, torchrun, wait
from tests.recon.training.launched import distance

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

WATCHED = "tests.recon.dense.watched"
WORDS = ["run=bundled", "device=cpu", "precision=fp32", "data.image_size=48", "transfer.seeds=1"]
WORDS += ["transfer.controls=false", "transfer.epochs=3"]  # 6 steps of 16 scenes, 12 of 8
LINEAR = [*WORDS, "task=segmentation", "transfer.heads=linear"]
LONGER = [*LINEAR, "transfer.epochs=30"]  # 60 steps
RESULTS = Path("runs/bundled-results")
TRAINING = RESULTS / "transfer/segmentation/run-linear-0"
TOLERANCE = 1e-5  # of weights and of scores: sums over images in another order


def model_of(place: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    """The last model that a rank trained there, whole numbers left out."""
    return {name: x for name, x in torch.load(place / f"model.{rank}.pt").items() if x.is_floating_point()}


def assert_same_but_for_rounding(one: Path, two: Path) -> None:
    """Two finished transfers: the trained model, and what every held-out image adds to every score."""
    assert distance(head_of(model_of(one)), head_of(model_of(two))) < TOLERANCE
    a, b = (results.read(place / RESULTS, "segmentation") for place in (one, two))
    assert a is not None and b is not None and a.results.keys() == b.results.keys() and len(a.results) == 2
    for name, result in a.results.items():
        assert torch.allclose(result.parts, b.results[name].parts, atol=1e-3), name  # a pixel or two of 96 x 96


def head_of(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x for name, x in model.items() if not name.startswith("encoder.")}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Where one process has trained a linear layer on frozen tokens, under a batch norm."""
    place = tmp_path_factory.mktemp("one")
    assert wait(forked(place, WATCHED, *LINEAR, threads=1)) == [0], said(place)
    return place


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Where two have done so together."""
    place = tmp_path_factory.mktemp("two")
    assert wait(*ranks(place, WATCHED, *LINEAR)) == [0, 0], said(place)
    return place


def test_two_processes_train_and_score_what_one_does_with_the_same_batches(one, two):
    assert_same_but_for_rounding(one, two)
    assert model_of(one)["linear.weight"].abs().max() > 1.5 * 3e-3  # it has learnt, by more than one step


def test_all_processes_have_the_same_weights_and_statistics(two):
    assert distance(model_of(two, 0), model_of(two, 1)) == 0


def test_rank_zero_alone_prints_and_writes(two):
    out = (two / "out").read_text()
    assert out.count("6 held-out images of dead_leaves") == out.count("python -m recon.compare") == 1
    assert "safetensors" in (two / "written.0").read_text()
    assert (two / "written.1").read_text() == ""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["transfer.heads=liner"], "did you mean 'linear'"),
        (["data=pairs", "data.root=nowhere"], "nowhere"),
        (["transfer.epochs=0"], "transfer.epochs"),
    ],
)
def test_what_is_wrong_is_one_line_for_both_and_leaves_nothing(tmp_path, words, named):
    assert wait(*ranks(tmp_path, "transfer", *LINEAR, *words)) == [2, 2]
    err = (tmp_path / "err").read_text()
    assert named in err and len(err.splitlines()) == 1, err
    assert {path.name for path in tmp_path.iterdir()} == {"out", "err"} and (tmp_path / "out").read_text() == ""


def test_both_leave_a_folder_that_another_command_writes_to(tmp_path):
    (tmp_path / RESULTS).mkdir(parents=True)
    with locked(tmp_path / RESULTS):
        assert wait(*ranks(tmp_path, "transfer", *LINEAR)) == [2, 2]
    assert "another process writes to" in (err := (tmp_path / "err").read_text()) and len(err.splitlines()) == 1, err


def test_a_batch_that_cannot_be_shared_is_refused():
    recipe_of("linear", "small", None, 32, processes=4)
    with pytest.raises(InvalidSetting, match="batches of 16, which is not a multiple of the 3 processes"):
        recipe_of("linear", "small", None, 32, processes=3)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Where two that torchrun started were, when SIGTERM hit the launcher, and its exit status."""
    place = tmp_path_factory.mktemp("stopped")
    launcher = torchrun(place, WATCHED, *LONGER)
    deadline = time.monotonic() + 300
    while not (place / "step").exists() or int((place / "step").read_text() or 0) < 5:
        assert time.monotonic() < deadline and launcher.exitcode is None, said(place)
        time.sleep(0.005)
    os.kill(launcher.pid or 0, signal.SIGTERM)
    return place, wait(launcher)[0]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One process, never stopped."""
    place = tmp_path_factory.mktemp("straight")
    assert wait(forked(place, WATCHED, *LONGER, threads=1)) == [0], said(place)
    return place


def test_where_the_launcher_is_asked_to_stop_all_stop_after_the_same_step_and_the_first_saves(stopped):
    place, status = stopped
    assert status != 0 and (place / "out").read_text().count("stopped; the same command goes on") == 1
    assert "recon/dense" not in (place / "err").read_text()  # no traceback but the launcher's own
    saved = read_checkpoint(place / TRAINING / CHECKPOINT)
    assert 5 <= saved["step"] < 60
    models = [model_of(place, rank) for rank in range(2)]
    assert distance(*models) == 0 and distance(models[0], {name: saved["model"][name] for name in models[0]}) == 0
    assert not (place / RESULTS / "transfer.segmentation.json").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_command_goes_on_by_one_process_or_two(tmp_path, stopped, straight, processes):
    place = tmp_path / "place"
    shutil.copytree(stopped[0] / "runs", place / "runs")
    gone_on = ranks(place, WATCHED, *LONGER) if processes == 2 else [forked(place, WATCHED, *LONGER, threads=1)]
    assert wait(*gone_on) == [0] * processes, said(place)
    assert_same_but_for_rounding(straight, place)
    assert not (place / TRAINING).exists()


def test_again_begins_anew_on_all(tmp_path, stopped, straight):
    """No process goes on from the checkpoint that the first one removes."""
    place = tmp_path / "place"
    shutil.copytree(stopped[0] / "runs", place / "runs")
    assert wait(*ranks(place, WATCHED, *LONGER, "again=true")) == [0, 0], said(place)
    assert_same_but_for_rounding(straight, place)


@pytest.mark.parametrize(
    "words",
    [
        ["task=segmentation", "transfer.heads=upernet"],
        ["task=detection", "transfer.gradient_checkpointing=true"],
        ["task=detection", "transfer.windows=2", "transfer.pyramid=four_block"],
    ],
    ids=lambda words: " ".join(words),
)
def test_heads_that_draw_random_numbers_train_alike_on_both(tmp_path, words):
    """The whole model: DDP refuses parameters that a step does not use."""
    assert wait(*ranks(tmp_path, WATCHED, *WORDS, "transfer.epochs=1", *words)) == [0, 0], said(tmp_path)
    assert distance(model_of(tmp_path, 0), model_of(tmp_path, 1)) == 0
    assert all(x.isfinite().all() for x in model_of(tmp_path).values())


def test_three_processes_refuse_a_batch_of_sixteen(tmp_path):
    how = ("--standalone", "--nproc-per-node=3")
    assert wait(torchrun(tmp_path, "transfer", *LINEAR, how=how)) != [0]
    err = (tmp_path / "err").read_text()
    assert err.count("not a multiple of the 3 processes\n") == 1 and "exitcode  : 2 " in err, err
    assert "recon/dense" not in err
