"""A model spread over real processes by FSDP2: two train what one does, each with half of it; and on two machines."""

import json
import signal
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.launched import ranks, said, torchrun, wait
from tests.recon.training.conftest import (
    SMALL,
    as_killed_after_its_first_checkpoint,
    differences,
    lines_of,
    resumed,
    small_run,
)
from tests.recon.training.launched import (
    ENDING,
    EVERY,
    STEPS,
    assert_same_but_for_rounding,
    distance,
    ended_on_the_way,
    momentum,
)

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

HARDEST = EVERY[-1]
SEVERAL = "tests.recon.training.several"
# Pictures on the way, for which the weights are gathered between two steps.
WORDS = [*STEPS, "optim.clip=0.5", "train.picture_every=3", "losses.adversarial.gan_loss=relativistic"]
LOW = ["loss=norm_mse", "train.steps=1", "precision=bf16", "batch.per_device=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def one(place, pictures):
    """Objective -> the run of one process, with gradients accumulated over two micro-batches."""
    words = [*WORDS, "batch.per_device=4"]
    return {loss: small_run(place, pictures, f"one{i}", *words, f"loss={loss}") for i, loss in enumerate(EVERY)}


@pytest.fixture(scope="module")
def straight(place, pictures):
    """One process, never stopped; without micro-batches, whose number draws differ by."""
    return small_run(place, pictures, "straight", *ENDING)


@pytest.fixture(scope="module")
def two(place, pictures, straight):
    """Name -> a run of two processes that share the model."""
    as_killed_after_its_first_checkpoint(straight, "killed")
    words = [*SMALL, f"data.root={pictures}"]
    shared = [*words, *WORDS, "batch.per_device=2", "shard=true"]
    runs = {f"two{i}": [*shared, f"loss={loss}"] for i, loss in enumerate(EVERY)}
    runs |= {"poisoned": [*shared, "loss=mse"], "compiled": [*shared, "loss=mse", "compile=true"]}
    runs |= {f"low{shard}": [*words, *LOW, f"shard={shard}"] for shard in ("false", "true")}
    runs |= {"killed": ["resume=true", "shard=true"]}
    assert wait(*ranks(place, SEVERAL, json.dumps(runs)), seconds=500) == [0, 0], said(place)
    return {name: place / "runs" / name for name in runs}


@pytest.mark.parametrize("loss", EVERY)
def test_two_processes_that_share_a_model_do_what_one_does(one, two, loss):
    assert_same_but_for_rounding(one[loss], two[f"two{EVERY.index(loss)}"])


def test_compiled_they_do_the_same(one, two):
    assert_same_but_for_rounding(one["mse"], two["compiled"])
    graphs = {
        name: [json.loads((two[name] / f"held.{rank}.json").read_text())["graphs"] for rank in (0, 1)]
        for name in ("two0", "compiled")
    }
    assert graphs["two0"] == [0, 0] and min(graphs["compiled"]) > 2, graphs  # the step's and the pictures', cut by FSDP


def test_each_process_holds_half_of_the_parameters_gradients_and_moments(two):
    whole = 4 * sum(tensor.numel() for tensor in parameters_of(two["two0"]).values())
    held = [json.loads((two["two0"] / f"held.{rank}.json").read_text()) for rank in (0, 1)]
    for what, size in {"parameters": whole, "gradients": whole, "moments": 2 * whole}.items():
        assert all(each[what] < 0.51 * size for each in held), what
        assert sum(each[what] for each in held) >= size, what


def parameters_of(folder: Path) -> dict[str, torch.Tensor]:
    weights = read_checkpoint(folder / CHECKPOINT)["model"]
    return {name: tensor for name, tensor in weights.items() if not name.endswith("pos_embed")}


def test_what_they_save_is_what_one_process_saves(one, two):
    """By names, shapes and kinds of numbers, so that it loads wherever one process's does."""
    left, right = (read_checkpoint(folder / CHECKPOINT) for folder in (one["mse"], two["two0"]))
    differing = {"name", "shard", "batch.per_device"}
    assert {key for key in left["settings"] if left["settings"][key] != right["settings"][key]} == differing
    parts = [state["tally"].pop("parts") for state in (left, right)]
    assert parts[0].keys() == parts[1].keys() == {"mse/loss", "mse/weighted_norm"}
    for state in (left, right):
        del state["settings"], state["random"], state["seen"]
    assert differences(kinds(left), kinds(right)) == []
    alone = load_file(two["two0"] / "model.safetensors")
    assert differences(alone, right["model"]) == []


def kinds(tree):
    """A tree with each tensor's kind and shape in its place."""
    if isinstance(tree, dict):
        return {key: kinds(value) for key, value in tree.items()}
    return (str(tree.dtype), list(tree.shape), tree.device.type) if isinstance(tree, torch.Tensor) else tree


def test_an_infinite_gradient_in_one_process_s_share_makes_all_skip_the_step(two):
    state = read_checkpoint(two["poisoned"] / CHECKPOINT)
    assert state["step"] == 8 and {float(of["step"]) for of in state["optimizer"]["state"].values()} == {7.0}
    assert float(state["tally"]["skipped_by"]["model"]) == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_in_bfloat16_the_gradient_is_what_it_is_where_each_process_has_the_whole_model(two):
    """The first step's momentum is a tenth of the gradient: units gathered in bfloat16 are what autocast rounds to."""
    apart, shared = (read_checkpoint(two[name] / CHECKPOINT) for name in ("lowfalse", "lowtrue"))
    assert distance(momentum(apart), momentum(shared)) < 1e-6


def test_two_processes_share_a_model_that_one_began_with(straight, two):
    assert_same_but_for_rounding(straight, two["killed"])


def test_the_run_says_that_it_is_sharded(place, two):
    assert (place / "out").read_text().count("32-true, 2 processes, sharded\n") == len(EVERY) + 3
    assert json.loads((two["two0"] / "environment.json").read_text())["sharded"] is True


ENDS = {"killed": (0, signal.SIGKILL), "asked": (1, signal.SIGTERM)}


@pytest.fixture(scope="module")
def ended(tmp_path_factory, pictures):
    """Name -> where runs of two processes ran, and their launcher's exit status."""
    place = tmp_path_factory.mktemp("ended")
    return ended_on_the_way(place, ENDS, *SMALL, *ENDING, f"data.root={pictures}", "shard=true")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
class TestEnds:
    def test_where_one_is_killed_all_end_and_one_line_says_so(self, ended):
        place, status = ended["killed"]
        assert status != 0
        out = (place / "out").read_text()
        assert out.count("another process of the run is gone") == 1 and "name=killed resume=true" in out, said(place)
        assert "recon/training" not in (place / "err").read_text()  # no traceback but the launcher's own
        assert read_checkpoint(place / "runs" / "killed" / CHECKPOINT)["step"] in range(5, 24, 5)

    def test_where_one_is_asked_to_stop_all_stop_after_the_same_step_and_their_shares_are_saved(self, ended):
        place, status = ended["asked"]
        folder = place / "runs" / "asked"
        step = read_checkpoint(folder / CHECKPOINT)["step"]
        assert status != 0 and 7 <= step < 24 and step == max(line["step"] for line in lines_of(folder))
        assert (place / "out").read_text().count(f"stopped at step {step} of 24") == 1

    def test_one_process_goes_on_where_they_ended_and_says_that_it_has_the_whole_model(self, ended, straight, capsys):
        for name, (place, _) in ended.items():
            folder = resumed(place, name)
            assert ", one process: nothing to shard\n" in capsys.readouterr().out
            assert json.loads((folder / "environment.json").read_text())["sharded"] is False
            assert_same_but_for_rounding(straight, folder)


def test_two_launchers_of_one_process_do_what_one_process_does(tmp_path, pictures, one):
    """As on two machines that share runs/, by DDP and by FSDP2."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    words = [*SMALL, *WORDS, f"data.root={pictures}", "batch.per_device=2", f"loss={HARDEST}"]
    launcher = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", where)
    runs = json.dumps({f"nodes{shard}": [*words, f"shard={shard}"] for shard in ("false", "true")})
    launched = [torchrun(tmp_path, SEVERAL, runs, how=launcher, log=f"{number}") for number in range(2)]
    assert wait(*launched, seconds=500) == [0, 0], said(tmp_path)
    for shard in ("false", "true"):
        assert_same_but_for_rounding(one[HARDEST], tmp_path / "runs" / f"nodes{shard}")
