"""An objective whose batch several processes share measures the whole batch in each of them."""

import pytest
import torch

from losses import Processes, Reconstruction, build_objective

EXPRESSIONS = ["mse", "norm_mse+0.3*l1", "10%l1+mse", "50%l1+25%perceptual+mse"]


class Partner(Processes):
    """Stands for one of two processes, run one after the other: receives what the first one sent."""

    count = 2

    def __init__(self):
        self.heard: list[torch.Tensor] = []
        self.said: list[torch.Tensor] = []

    def all_reduce(self, tensors):
        self.said = [tensor.clone() for tensor in tensors]
        for tensor, other in zip(tensors, self.heard, strict=False):
            tensor += other


def scene(seed: int = 0) -> Reconstruction:
    """Four images of 16 pixels in patches of 8, one visible in each, and no half is as the whole."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 3, 16, 16, generator=generator, dtype=torch.float64)
    noise = torch.rand(4, 4, generator=generator)
    scale = torch.tensor([0.1, 1.0, 3.0, 9.0], dtype=torch.float64).view(4, 1, 1)
    prediction = torch.randn(4, 4, 3 * 64 + 2, generator=generator, dtype=torch.float64) * scale
    mask = noise > noise.min(1, keepdim=True).values
    return Reconstruction(prediction, image, mask, shift=(0.3, 0.7), sampling=(0.6, 0.9, 0.2))


def part(r: Reconstruction, which: slice, head) -> Reconstruction:
    width = head.width(r.values)
    prediction, placed = r.prediction[which, :, :width], {"shift": r.shift, "sampling": r.sampling}
    return Reconstruction(prediction, r.image[which], r.mask[which], head, **placed)


@pytest.mark.parametrize("cheaper", [{}, {"images": 0.5, "crop": 8, "every": 3}], ids=["all", "a part"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_two_halves_measure_as_the_whole_and_their_gradients_average_to_its_own(expression, cheaper):
    whole = scene()

    def objective(processes):
        options = {"perceptual": {"weights": "random", "taps": ["conv1_1"]} | cheaper}
        torch.manual_seed(0)
        return build_objective(expression, image_size=16, processes=processes, **options).double()

    expected = (alone := objective(Processes()))(part(whole, slice(None), alone.head))
    first, second = Partner(), Partner()
    halves = [slice(0, 2), slice(2, 4)]
    objective(second)(part(whole, halves[1], alone.head))
    first.heard = second.said
    found = [objective(first)(part(whole, halves[0], alone.head))]
    second.heard = first.said
    found.append(objective(second)(part(whole, halves[1], alone.head)))
    for result in found:
        for name, term in expected.terms.items():
            for key in ("value", "weight", "gradient_norm"):
                assert getattr(result.terms[name], key).item() == pytest.approx(getattr(term, key).item(), rel=1e-12)
        for pair, cosine in expected.cosines.items():
            assert result.cosines[pair].item() == pytest.approx(cosine.item(), abs=1e-12)
        assert result.value.item() == pytest.approx(expected.value.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat([r.gradient for r in found]) / 2, expected.gradient, rtol=1e-11, atol=1e-14)


def test_a_value_that_is_not_finite_in_one_half_is_so_in_both():
    first, second = Partner(), Partner()
    r = scene()
    r.image[3, 0, 0, 0] = float("nan")
    objective = build_objective("mse", processes=second)
    objective(part(r, slice(2, 4), objective.head))
    first.heard = second.said
    objective = build_objective("mse", processes=first)
    assert not objective(part(r, slice(0, 2), objective.head)).value.isfinite()
