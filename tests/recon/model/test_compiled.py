"""Under compile=true the model is compiled once for training and once for pictures, and never again."""

import torch
from torch._dynamo.testing import CompileCounter

from losses import build_objective
from tests.recon.model.conftest import images, noise, small


def test_steady_training_compiles_nothing_anew():
    torch._dynamo.reset()
    objective = build_objective("norm_mse")
    model, counter = small(head=objective.head, dtype=torch.float32, depth=1, decoder_depth=1), CompileCounter()
    model.predict = torch.compile(model.predict, backend=counter)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(seed: int) -> None:
        r = model(images(seed=seed, dtype=torch.float32), noise=noise(seed=seed), decoded=1.0)
        r.prediction.backward(objective(r).gradient)
        optimizer.step()
        optimizer.zero_grad()

    def picture() -> None:
        with torch.no_grad():
            model(images(dtype=torch.float32), noise=noise())

    step(0)
    picture()
    settled = counter.frame_count
    assert settled >= 2
    for seed in range(1, 4):
        step(seed)
        picture()
    assert counter.frame_count == settled
