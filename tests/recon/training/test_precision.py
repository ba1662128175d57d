"""What precision may change and what it may not."""

import pytest
import torch

from losses import InvalidSetting, Objective
from recon.training import pretraining
from recon.training.device import make_fabric, set_deterministic
from recon.training.preview import Preview
from tests.recon.training.conftest import SMALL, pretrain


@pytest.fixture(scope="module")
def seen(tmp_path_factory, pictures):
    """What the objective and the preview are given, under each precision: (images, mask), step by step."""
    place = tmp_path_factory.mktemp("precision")
    return {precision: seen_under(precision, place, pictures) for precision in ("fp32", "bf16")}


def seen_under(precision, place, pictures):
    found = {"training": [], "preview": []}
    objective, reconstruct = Objective.forward, Preview.reconstruct

    def judged(self, r, step=0):
        found["training"].append((r.image, r.mask))
        return objective(self, r, step)

    def looked_at(self, model):
        reconstructions = reconstruct(self, model)
        found["preview"] += [(r.image, r.mask) for r in reconstructions]
        return reconstructions

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Objective, "forward", judged)
        patched.setattr(Preview, "reconstruct", looked_at)
        words = [*SMALL, f"data.root={pictures}", "loss=mse", "train.steps=2", f"name={precision}"]
        # 256 patches: enough that two of them share a noise value in half precision.
        assert pretrain(place, *words, f"precision={precision}", "model.patch_size=1") == 0
    return found


@pytest.mark.parametrize("where", ["training", "preview"])
def test_precision_changes_neither_the_truth_nor_the_masks(seen, where):
    assert len(seen["fp32"][where]) == len(seen["bf16"][where]) >= 1
    for (truth, mask), (low_truth, low_mask) in zip(seen["fp32"][where], seen["bf16"][where], strict=True):
        assert low_truth.dtype == torch.float32
        assert torch.equal(truth, low_truth) and torch.equal(mask, low_mask)


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("gpu", "auto", ["unknown device 'gpu'", "cuda"]),
        ("cdua", "auto", ["unknown device 'cdua'", "did you mean 'cuda'"]),
        ("cpu:0", "auto", ["unknown device 'cpu:0'"]),
        ("cuda:x", "auto", ["unknown device 'cuda:x'"]),
        ("", "auto", ["unknown device ''"]),
        ("cuda:99", "auto", ["device=cuda:99", "device=auto"]),
        ("cpu", "fp16", ["unknown precision 'fp16'", "fp32", "bf16"]),
    ],
)
def test_a_device_or_precision_that_is_not_there_is_named(device, precision, said):
    with pytest.raises(InvalidSetting) as error:
        make_fabric(device, precision)
    assert len(str(error.value).splitlines()) == 1 and all(words in str(error.value) for words in said)


def test_an_objective_without_deterministic_kernels_is_one_line(tmp_path, pictures, monkeypatch):
    said = "cumsum_cuda_kernel does not have a deterministic implementation, but you set ..."

    def complains(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(pretraining, "train", complains)
    words = [*SMALL, f"data.root={pictures}", "loss=l1", "train.steps=2", "name=one", "deterministic=true"]
    with pytest.raises(InvalidSetting) as error:
        pretrain(tmp_path, *words)
    line = str(error.value)
    assert "deterministic=true: cumsum_cuda_kernel" in line and "l1" in line and len(line.splitlines()) == 1


def test_a_cpu_needs_no_deterministic_kernels_and_is_left_as_it_is():
    set_deterministic(True, torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
