"""Runs that predict discrete tokens: what is fitted before the first step, kept, and taken over by others."""

import pytest
import torch
from safetensors.torch import load_file

from losses import InvalidSetting
from recon.evaluation.evaluate_run import evaluate
from recon.evaluation.evaluator import MetricSuite
from recon.loaded_run import open_run
from recon.metrics import METRICS
from recon.model.formats import read, write
from recon.training import setup
from tests.helpers.small_runs import measuring
from tests.recon.training.conftest import SMALL, as_killed_after_its_first_checkpoint, pretrain, resumed, small_run

TOKENS = ["loss=tokens", "losses.tokens.codes=16", "train.checkpoint_every=2", "train.steps=4"]
CODEBOOK = "target.tokenizer.codebook"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module", params=["colours", "kmeans"])
def run(request, place, pictures):
    return small_run(place, pictures, request.param, *TOKENS, f"losses.tokens.tokenizer={request.param}")


def tensors(folder):
    return load_file(folder / "model.safetensors")


def test_the_codebook_is_fitted_on_training_images_and_never_trained(run, place, pictures):
    codebook = tensors(run)[CODEBOOK]
    assert codebook.std(0).mean() > 0.05 and codebook.abs().max() < 5  # of standardised pixels
    words = [*TOKENS, f"losses.tokens.tokenizer={run.name}", "train.steps=1", "optim.base_lr=1e-30"]
    other = small_run(place, pictures, f"{run.name}-untrained", *words)
    assert torch.equal(tensors(other)[CODEBOOK], codebook)
    seeded = small_run(place, pictures, f"{run.name}-seed", *words, "seed=1")
    assert not torch.equal(tensors(seeded)[CODEBOOK], codebook)


def test_a_resumed_run_fits_nothing(run, place, monkeypatch):
    killed = as_killed_after_its_first_checkpoint(run, f"{run.name}-killed")
    monkeypatch.setattr(setup, "fitted_state", None)
    resumed(place, killed.name)
    assert (killed / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_the_file_of_weights_renders_alone(run, tmp_path):
    images, mask = torch.rand(2, 3, 16, 16), torch.arange(16).expand(2, -1) < 12
    path = tmp_path / "whole.safetensors"
    assert write(read(run), path, "recon") == []
    models = open_run(run).model, open_run(path).model
    for rendering in ("mean", "mode", "sample"):
        one, other = (model.render(images, mask, rendering).composite for model in models)
        assert torch.equal(one, other)


def test_official_files_have_no_place_for_tokens(run, tmp_path):
    with pytest.raises(InvalidSetting, match="a decoder of tokens"):
        write(read(run), tmp_path / "mae.pth", "official")


def test_another_run_takes_the_codebook_over_with_the_decoder(run, place, pictures):
    words = [*TOKENS, f"losses.tokens.tokenizer={run.name}", "seed=5", "train.steps=1", "optim.base_lr=1e-30"]
    child = tensors(small_run(place, pictures, f"{run.name}-child", *words, f"init={run}"))
    assert torch.equal(child[CODEBOOK], tensors(run)[CODEBOOK])
    torch.testing.assert_close(child["decoder_pred.weight"], tensors(run)["decoder_pred.weight"], rtol=0, atol=1e-20)


def test_tokens_of_another_tokenizer_are_predicted_by_a_new_layer(run, place, pictures):
    """Though a codebook of as many entries has a layer of the same shape."""
    words = [*TOKENS, f"losses.tokens.tokenizer={run.name}", "losses.tokens.codes=8", "train.steps=1"]
    child = small_run(place, pictures, f"{run.name}-other", *words, f"init={run}")
    assert len(tensors(child)[CODEBOOK]) == 8
    record = open_run(child).resolved["init"]
    assert {"decoder", "target"} <= set(record["new"]) and "decoder" in record["taken"]


def test_every_rendering_is_a_row_of_the_evaluation(run):
    suite = MetricSuite(METRICS, None, {}, {}, [])
    found = evaluate(open_run(run), measuring(draws=2), suite)
    own = [row.rendering for row in found.rows if row.kind == "run"]
    assert own == ["mean", "mode", "sample", "mean of 2 draws"]


def test_a_decoder_alone_is_trained_and_the_codebook_stays(run, place, pictures):
    words = [*TOKENS, f"losses.tokens.tokenizer={run.name}", f"init={run}", "train.parts=decoder"]
    child = tensors(small_run(place, pictures, f"{run.name}-decoder", *words))
    assert torch.equal(child[CODEBOOK], tensors(run)[CODEBOOK])
    assert not torch.equal(child["decoder_pred.weight"], tensors(run)["decoder_pred.weight"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["losses.tokens.codes=5000"], ["losses.tokens.codes=5000", "patches"]),
        (["losses.tokens.tokenizer=colours", "model.patch_size=2"], ["4 does not divide", "2 pixels"]),
        (["losses.tokens.tokenizer=vq"], ["losses.tokens.tokenizer=vq", "recon.tokenizer kind=vq"]),
        (["losses.tokens.tokenizer=dvae"], ["losses.tokens.tokenizer=dvae", "kmeans"]),
        (["loss=tokens+hog"], ["different heads"]),
        (["model.refiner_width=8"], ["predicts tokens"]),
        (["train.parts=head"], ["train.parts=head"]),
    ],
    ids=lambda words: words[0],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(place, pictures, tmp_path, words, named):
    begin = [] if words != ["train.parts=head"] else [f"init={place / 'runs' / 'kmeans'}"]
    with pytest.raises(InvalidSetting) as error:
        pretrain(tmp_path, *SMALL, f"data.root={pictures}", "name=not", *TOKENS, *begin, *words)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and all(word in message for word in named), message
    assert list(tmp_path.iterdir()) == []
