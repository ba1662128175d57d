"""Command: train a masked autoencoder under one objective, or under many (`-m`)."""

from recon.command import run
from recon.training.pretraining import pretrain

if __name__ == "__main__":
    run(pretrain, "pretrain", "Trains a masked autoencoder:  python -m recon.pretrain loss=perceptual+mse")
