"""A whole probing beside scikit-learn, on its handwritten digits as folders of PNGs."""

import contextlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from losses import tensor_files
from recon.cli import typed
from recon.probing import probe_run
from recon.probing.labelled import open_task
from recon.probing.linear import DECAYS, moments
from recon.probing.probe_results import read
from recon.study_config import ProbeSettings
from recon.training import device
from tests.recon.training.conftest import SMALL, pretrain

ENCODER = [*SMALL, "loss=mse", "batch.size=64", "train.steps=30", "data.root=digits", "name=digits"]


def digits(folder: Path) -> None:
    """The 1,797 digits, 8 x 8 pixels: FOLDER/train or val/CLASS/NUMBER.png, every fifth held out."""
    found = load_digits()
    for i, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
        path = folder / ("train" if i % 5 else "val") / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype("uint8")).save(path)


@pytest.mark.slow
def test_the_linear_probe_of_a_barely_trained_encoder_is_scikit_learn_s(tmp_path, monkeypatch):
    digits(tmp_path / "digits")
    assert pretrain(tmp_path, *ENCODER) == 0
    monkeypatch.setattr(device, "fast_bfloat16", lambda kind: True)  # where features would be rounded, if they were
    words = ["run=runs/digits", "probe.name=linear", "probe.controls=false", "probe.seeds=1", "probe.fractions=[1]"]
    with contextlib.chdir(tmp_path):
        settings = OmegaConf.merge(OmegaConf.structured(ProbeSettings), OmegaConf.from_dotlist([*words, "device=cpu"]))
        assert probe_run.probe(typed(settings)) == 0
        record, task = read(Path("runs/digits")), open_task("folder", "digits")
        (file,) = Path("runs/digits/features").iterdir()
        features = tensor_files.from_bytes(file.read_bytes()).content
    assert record is not None
    truth = task.test_labels._labels
    for name in ("class/4", "mean/4"):
        train, test = features[f"train/{name}"], features[f"test/{name}"]
        mean, std = moments(train)
        x, y = ((part - mean) / std for part in (train, test))
        chosen = record.results[f"run/linear/{name}/1"]
        theirs = []
        for decay in DECAYS:
            fitted = LogisticRegression(C=1 / (decay * len(x)), tol=1e-6, max_iter=5000)
            fitted.fit(x.double().numpy(), task.train.labels.numpy())
            theirs.append(fitted.score(y.double().numpy(), truth.numpy()))
        same = theirs[DECAYS.index(chosen.chosen[0]["weight_decay"])]
        assert chosen.estimate.mean == pytest.approx(same, abs=1.5 / len(truth))
        assert chosen.estimate.mean > max(theirs) - chosen.estimate.standard_error, theirs
        assert chosen.estimate.mean > 0.85
