"""What a GPU trains is what a CPU trains; there too a run resumes to its bits, and nothing waits for the device."""

import copy

import pytest
import skimage.data
import torch

from losses import Reconstruction, build_objective
from losses.term import gradient_norm, step_unless
from recon.data.batches import Batch
from recon.data.crops import CropBatch
from recon.evaluation.evaluate_run import evaluate
from recon.evaluation.evaluator import load_suite
from recon.loaded_run import open_run
from recon.model import create_model, distributions, mae
from recon.study_config import EvaluateSettings
from recon.training import loop
from recon.training.device import Upload
from recon.training.optim import adamw, set_learning_rate
from recon.training.train_logger import TrainLogger
from tests.recon.training.conftest import (
    SMALL,
    as_killed_after_its_first_checkpoint,
    differences,
    pretrain,
    state_of,
)

pytestmark = pytest.mark.gpu

SIDE = 32
CRITICS = {
    "perceptual": {"weights": "random"},
    "adversarial": {"width": 8, "generator_start": 0.0, "generator_full": 0.0},
    "feature_matching": {"width": 8, "generator_start": 0.0, "generator_full": 0.0},
}
EXPRESSIONS = [
    "mse",
    "norm_mse",
    "l1",
    "charbonnier",
    "ssim+mse",
    "0.01*perceptual+mse",
    "200%perceptual+mse",
    "200%adversarial+mse",
    "500%feature_matching+mse",
    "mixture",
    "mse+flow",
]
# What makes a run: deterministic kernels, bfloat16 on a GPU, and each kind of critic.
RUNS = {
    "mse": ["loss=mse"],
    "norm_mse": ["loss=norm_mse", "optim.clip=0.5"],
    "perceptual": ["loss=perceptual+mse", "data.augment=device"],
    "adversarial": ["loss=adversarial+mse", "losses.adversarial.generator_full=0.5", "model.refiner_width=8"],
    "flow": ["loss=flow"],
}


@pytest.fixture(autouse=True)
def one_chance(monkeypatch):
    """A flow's times and noise are drawn on the device, and so are others on each: here those of the CPU on both."""
    drawn = distributions.time_and_noise

    def on_cpu(images):
        return tuple(tensor.to(images.device) for tensor in drawn(images.cpu()))

    monkeypatch.setattr(mae, "time_and_noise", on_cpu)


def words(device: torch.device, pictures, *more: str) -> list[str]:
    """Settings of a small run on the device."""
    small = [word for word in SMALL if not word.startswith(("device=", "precision="))]
    return [*small, f"device={device}", f"data.root={pictures}", *more]


class Trained:
    """A model, its objective and optimiser, from one seed on any device; `step` is a whole training step."""

    def __init__(self, expression: str, device: torch.device | str, compiled: bool = False):
        torch.manual_seed(0)
        self.device = torch.device(device)
        critics = {name: options for name, options in CRITICS.items() if name in expression}
        self.objective = build_objective(expression, image_size=(SIDE, SIDE), steps=100, compiled=compiled, **critics)
        refiner = 8 if self.objective.head.name == "pixels" else 0
        self.model = create_model(
            "nano", image_size=(SIDE, SIDE), patch_size=8, head=self.objective.head, refiner_width=refiner
        )
        if refiner:  # which begins with no effect, and hides what is before it from no one
            torch.nn.init.normal_(self.model.refiner.outputs.weight, std=0.02)
        photograph = torch.from_numpy(skimage.data.astronaut()[:128, 160:288]).permute(2, 0, 1).float() / 255
        self.images = torch.stack([photograph[:, i : i + SIDE, i : i + SIDE] for i in range(0, 96, 24)])
        self.noise = torch.rand(len(self.images), self.model.patches)
        self.model, self.objective = self.model.to(device), self.objective.to(device)
        if compiled:
            self.model.predict = torch.compile(self.model.predict)
        self.optimizer = adamw(self.model, weight_decay=0.05, betas=(0.9, 0.95))
        set_learning_rate(self.optimizer, 1e-3)

    def forward(self, low: bool = False) -> Reconstruction:
        torch.manual_seed(1)  # the place of critics' grids
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return self.model(self.images.to(self.device), noise=self.noise, decoded=1.0)

    def step(self, number: int = 50):
        r = self.forward()
        result = self.objective(r, number)
        r.prediction.backward(result.gradient)
        self.trained = [p for p in self.model.parameters() if p.grad is not None]
        self.gradients = [p.grad.clone() for p in self.trained]
        step_unless(self.optimizer, ~gradient_norm(self.model.parameters()).isfinite())
        self.optimizer.zero_grad()
        self.objective.update(number)
        return result


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_step_is_the_same_to_rounding(device, expression):
    cpu, gpu = (Trained(expression, d) for d in ("cpu", device))
    here, there = cpu.step(), gpu.step()
    torch.testing.assert_close(there.value.cpu(), here.value, rtol=1e-4, atol=1e-6)
    for name, term in here.terms.items():
        for part in ("value", "weight", "gradient_norm"):
            torch.testing.assert_close(
                getattr(there.terms[name], part).cpu(), getattr(term, part), rtol=1e-4, atol=1e-6
            )
    for a, b in zip(cpu.gradients, gpu.gradients, strict=True):
        assert (b.cpu() - a).norm() <= 1e-4 * a.norm() + 1e-7
    # Adam's first step goes by the sign of a gradient: where that is rounding alone, as of keys' biases, weights part.
    for a, b, g in zip(cpu.trained, gpu.trained, cpu.gradients, strict=True):
        told = g.abs() > 1e-2 * g.abs().max()
        torch.testing.assert_close(b.detach().cpu()[told], a.detach()[told], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("expression", ["mixture", "flow"])
def test_a_draw_is_the_same_to_rounding(device, expression):
    here, there = (Trained(expression, d) for d in ("cpu", device))
    mask = here.forward().mask
    drawn = [t.model.eval().render(t.images.to(t.device), mask.to(t.device), "sample") for t in (here, there)]
    torch.testing.assert_close(drawn[1].composite.cpu(), drawn[0].composite, rtol=0, atol=1e-4)


@pytest.mark.parametrize("expression", ["mse", "norm_mse", "200%adversarial+mse"])
def test_bfloat16_changes_little(device, expression):
    wide, low = (Trained(expression, device) for _ in range(2))
    for trained, is_low in ((wide, False), (low, True)):
        r = trained.forward(low=is_low)
        r.prediction.backward(trained.objective(r, 50).gradient.to(r.prediction.dtype))
        trained.gradient = torch.cat([p.grad.flatten() for p in trained.model.parameters() if p.grad is not None])
    assert torch.cosine_similarity(wide.gradient, low.gradient, dim=0) > 0.99
    assert (low.gradient.norm() / wide.gradient.norm() - 1).abs() < 0.05
    assert not torch.equal(wide.gradient, low.gradient)


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_to_the_same_bits(device, name, tmp_path, pictures):
    steps = ["train.steps=8", "train.checkpoint_every=4", "train.log_every=3", "deterministic=true"]
    assert pretrain(tmp_path, *words(device, pictures, *RUNS[name], *steps, "name=straight")) == 0
    straight = tmp_path / "runs" / "straight"
    killed = as_killed_after_its_first_checkpoint(straight, "killed")
    torch.manual_seed(99)
    assert pretrain(tmp_path, "name=killed", "resume=true") == 0
    assert differences(state_of(straight), state_of(killed)) == []


def test_a_run_is_measured_alike(device, tmp_path, pictures, monkeypatch):
    assert pretrain(tmp_path, *words(device, pictures, "loss=mse", "train.steps=4", "name=run")) == 0
    monkeypatch.chdir(tmp_path)
    found = []
    for d in ("cpu", device):
        loaded = open_run(tmp_path / "runs" / "run")
        settings = EvaluateSettings(run="runs/run", device=str(d), images=3)
        found.append(evaluate(loaded, settings, load_suite(settings)).results)
    here, there = ({(v.row, v.metric): v.value for v in results if not v.variant} for results in found)
    assert here.keys() == there.keys()
    for key, value in here.items():
        assert (there[key] is None) == (value is None)
        assert value is None or there[key] == pytest.approx(value, rel=2e-3, abs=1e-5), key


def test_no_step_waits_for_the_device(device, tmp_path, pictures, monkeypatch):
    """But where something is due: a line of the log, a picture, a checkpoint."""
    if device.type != "cuda":
        pytest.skip("torch tells of waits for CUDA alone")
    rate, watched, guarded = loop.set_learning_rate, TrainLogger.after_step, []

    def begins(optimizer, value):
        if optimizer.state:  # the first step makes it
            torch.cuda.set_sync_debug_mode("error")
            guarded.append(value)
        rate(optimizer, value)

    def ends(self, *args, **named):
        torch.cuda.set_sync_debug_mode("default")
        watched(self, *args, **named)

    monkeypatch.setattr(loop, "set_learning_rate", begins)
    monkeypatch.setattr(TrainLogger, "after_step", ends)
    try:
        for loss in ("loss=norm_mse", "loss=200%perceptual+200%adversarial+10%l1+mse"):
            guarded.clear()
            more = [loss, "train.steps=6", "optim.clip=1", "train.ema=0.9", f"name={len(loss)}"]
            critics = ["losses.adversarial.generator_full=0.2", "losses.perceptual.images=0.5"]
            critics += ["losses.adversarial.penalty_every=2", "data.augment=device", "batch.per_device=4"]
            assert pretrain(tmp_path, *words(device, pictures, *more, *critics)) == 0
            assert len(guarded) == 5
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("augment", ["loader", "device"])
def test_a_batch_is_brought_over_as_it_is(device, augment):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 24, 20, 3), dtype=torch.uint8, generator=generator)
    images = pixels.permute(0, 3, 1, 2).contiguous()
    if augment == "device":
        sides = torch.tensor([[24, 20], [16, 20], [24, 12], [9, 7]])
        images = CropBatch(pixels, sides, torch.tensor([False, True, False, True]), (16, 16))
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), torch.rand(4, 4, generator=generator), [])
    expected = copy.deepcopy(batch).images_on(torch.device("cpu")), batch.noise
    upload = Upload(device)
    pinned = batch.pin_memory() if device.type == "cuda" else batch
    for _ in range(3):  # again, when memory is used again
        for found, truth in zip(upload(pinned), expected, strict=True):
            assert found.device.type == device.type
            torch.testing.assert_close(found.cpu(), truth, rtol=3e-7, atol=0)  # a GPU divides by 255 its own way


@pytest.mark.parametrize("expression", ["norm_mse", "200%perceptual+200%adversarial+mse"])
def test_after_its_first_steps_nothing_is_compiled_again(device, expression):
    torch.compiler.reset()
    trained = Trained(expression, device, compiled=True)
    for number in range(50, 53):
        trained.step(number)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for number in range(53, 70):  # the penalty's turn comes twice
            trained.step(number)
