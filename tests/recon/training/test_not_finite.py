"""A step without a finite loss and gradient is skipped, counted and attributed; many in a row end the run."""

import json
from collections.abc import Container, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from losses import Objective, Term
from losses.expression import WeightedTerm, parse
from losses.pixel import MSE
from recon.data import Batch
from recon.model import create_model
from recon.run_folder import load_checkpoint
from recon.run_listing import describe
from recon.training.device import make_fabric
from recon.training.loop import train
from recon.training.optim import adamw, learning_rate
from recon.training.preview import Preview
from recon.training.state import MetricAccumulator, Run, Schedule
from recon.training.train_logger import SKIPPED_IN_A_ROW, Diverged
from tests.recon.training.conftest import SMALL, differences, pretrain


class Poison(Term):
    """Zero, but not finite in some calls; takes note of the weights that it meets."""

    def __init__(self, when: Container[int], value: float = float("nan"), gradient: float = float("nan")):
        super().__init__()
        self.when, self.bad_value, self.bad_gradient = when, value, gradient
        self.model: torch.nn.Module | None = None
        self.met: list[dict[str, torch.Tensor]] = []

    def value(self, r):
        bad = len(self.met) in self.when
        self.met.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        pull = r.pixels.sum() * (self.bad_gradient if bad else 0.0)
        return pull - pull.detach() + (self.bad_value if bad else 0.0)


def batches() -> Iterator[Batch]:
    for step in count():
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
        yield Batch(images, torch.zeros(4), torch.rand(4, 4, generator=generator), [])


def made(folder: Path, poison: Poison) -> Run:
    """A tiny run under mse + poison."""
    torch.manual_seed(0)
    model = create_model(
        "tiny", image_size=8, patch_size=4, width=24, depth=1, heads=3, decoder_width=32, decoder_depth=1
    )
    poison.model = model
    terms = {"mse": MSE(), "poison": poison}
    objective = Objective(parse("mse+poison", {name: WeightedTerm(name, 1.0) for name in terms}), terms)
    optimizer = adamw(model, weight_decay=0.05, betas=(0.9, 0.95))
    folder.mkdir(exist_ok=True)
    return Run(folder, {}, model, objective, optimizer, MetricAccumulator(torch.device("cpu")), 4, 0.0)


def trained(run: Run, steps: int, log_every: int = 1, accumulate: int = 1) -> int | None:
    schedule = Schedule(
        steps=steps,
        accumulate=accumulate,
        checkpoint_every=2,
        log_every=log_every,
        picture_every=1000,
        learning_rate=partial(learning_rate, steps=steps, peak=1e-3, warmup=0.0),
        clip=None,
        decoded=1.0,
    )
    preview = Preview(torch.rand(2, 3, 8, 8), torch.rand(2, 4), 2)
    return train(run, make_fabric("cpu", "fp32"), batches(), schedule, preview)


def logged(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "learning_rate" in line]


def test_a_poisoned_step_leaves_the_weights_and_training_goes_on(tmp_path, seeded):
    poison = Poison(when={3, 4, 7})
    run = made(tmp_path, poison)
    assert trained(run, 10) is None and run.step == 10
    stood_still = [step for step in range(9) if differences(poison.met[step], poison.met[step + 1]) == []]
    assert stood_still == [3, 4, 7]
    assert run.metrics.skipped() == {"poison": 3}


def test_a_poisoned_step_is_as_if_it_had_never_been_for_the_optimiser(tmp_path, seeded):
    run = made(tmp_path, Poison(when={1, 3}))
    trained(run, 5)
    steps = {float(state["step"]) for state in run.optimizer.state.values()}
    assert steps == {3.0}
    assert all(state["exp_avg"].isfinite().all() for state in run.optimizer.state.values())


def test_the_log_counts_skipped_steps_and_its_means_stay_finite(tmp_path, seeded):
    trained(made(tmp_path, Poison(when={2, 3})), 6, log_every=2)
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert ["loss" in line for line in lines] == [True, False, True]
    assert [line.get("skipped/poison", 0) for line in lines] == [0, 2, 2]


def test_one_bad_micro_batch_skips_the_whole_step(tmp_path, seeded):
    poison = Poison(when={3})
    run = made(tmp_path, poison)
    trained(run, 4, accumulate=2)
    assert differences(poison.met[2], poison.met[4]) == [] != differences(poison.met[4], poison.met[6])
    assert run.metrics.skipped() == {"poison": 1}


def test_a_gradient_that_the_model_made_bad_is_the_model_s(tmp_path, seeded):
    run = made(tmp_path, Poison(when=()))
    run.model.decoder_pred.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    trained(run, 3)
    assert run.metrics.skipped() == {"model": 3}
    assert differences(before, dict(run.model.named_parameters())) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_skips_the_step_even_where_the_gradient_is(tmp_path, seeded, value):
    poison = Poison(when={2}, value=value, gradient=0.0)
    run = made(tmp_path, poison)
    trained(run, 5)
    assert run.metrics.skipped() == {"poison": 1}
    assert differences(poison.met[2], poison.met[3]) == []
    assert all("NaN" not in json.dumps(line) and "Infinity" not in json.dumps(line) for line in logged(tmp_path))


@pytest.mark.parametrize("first", [5, 6])
@pytest.mark.parametrize("log_every", [1, 4])
def test_poison_for_good_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path, seeded, first, log_every):
    poison = Poison(when=range(first, 1000))
    run = made(tmp_path, poison)
    with pytest.raises(Diverged, match="poison") as error:
        trained(run, 200, log_every=log_every)
    assert len(str(error.value).splitlines()) == 1
    assert run.step == -(-(first + SKIPPED_IN_A_ROW) // log_every) * log_every  # noticed with the log's next line
    state, refused = load_checkpoint(tmp_path)
    assert refused == [] and state["step"] == first // 2 * 2
    then = poison.met[state["step"]]
    assert differences({name: state["model"][name] for name in then}, then) == []
    assert differences(dict(run.model.named_parameters()), poison.met[first]) == []


def test_poison_for_good_is_noticed_even_if_the_log_is_not_yet_due(tmp_path, seeded):
    with pytest.raises(Diverged):
        trained(made(tmp_path, Poison(when=range(5, 1000))), 5 + 3 * SKIPPED_IN_A_ROW, log_every=1000)


def test_a_run_whose_last_step_was_skipped_still_leaves_its_model_and_its_last_step(tmp_path, seeded):
    run = made(tmp_path, Poison(when={4}))
    assert trained(run, 5) is None
    assert load_checkpoint(tmp_path)[0]["step"] == 5
    assert differences(load_checkpoint(tmp_path)[0]["model"], run.model.state_dict()) == []


@pytest.mark.parametrize("words", [["optim.base_lr=1e300", "train.steps=3"], ["optim.base_lr=1e30", "train.steps=6"]])
@pytest.mark.parametrize("every", [1, 100])
def test_a_run_whose_weights_blow_up_has_diverged_and_no_checkpoint_holds_them(
    tmp_path, pictures, capsys, words, every
):
    """Also where it ends before many steps were skipped, and where the first step leaves weights that are finite."""
    words = [*SMALL, "loss=mse", f"data.root={pictures}", "name=x", f"train.checkpoint_every={every}", *words]
    assert pretrain(tmp_path, *words) == 1
    out = capsys.readouterr().out
    assert "the weights are too large, or not finite; the last good checkpoint is intact" in out, out
    state, _ = load_checkpoint(tmp_path / "runs" / "x")
    assert state["step"] == 0 and all(tensor.abs().max() < 100 for tensor in state["model"].values())
    listed = describe(tmp_path / "runs" / "x")
    assert (listed.state, listed.step) == ("diverged", 0) and "the weights are too large" in listed.reason
