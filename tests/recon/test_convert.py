"""`python -m recon.convert`: once as it is typed, in a process of its own; otherwise by what the command calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from losses import InvalidSetting
from recon.cli import run
from recon.convert import COMMAND, ConvertSettings, convert
from recon.model.formats import read
from tests.recon.model.formats.conftest import encoder_only, made, same

ROOT = Path(__file__).parents[2]


def typed(place: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "recon.convert", *words]
    return subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


def settings(**values: str):
    return ConvertSettings(**values)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    state = made().state_dict()
    torch.save({"model": encoder_only(state)}, tmp_path / "mae_encoder.pth")
    torch.save({"model": state}, tmp_path / "mae_visualize.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "mae_visualize.pth").read_bytes()[:5000])
    (tmp_path / "other.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_an_official_file_is_converted_and_described(place):
    done = typed(place, "input=mae_visualize.pth", "out=new/vit.safetensors", "target=normalised")
    assert done.returncode == 0, done.stderr
    for said in ("official MAE code", "2 blocks of width 128, 2 heads", "normalised pixels", "new/vit.safetensors"):
        assert said in done.stdout
    found = read(place / "new/vit.safetensors")
    assert (found.format, found.target) == ("recon", "normalised pixels")
    assert same(found.state, read(place / "mae_visualize.pth").state)


def test_a_torn_file_is_one_line_and_exit_status_2(place, monkeypatch, capsys):
    before = sorted(place.iterdir())
    monkeypatch.setattr(sys, "argv", ["recon.convert", "input=torn.pth", "out=a.pth"])
    with pytest.raises(SystemExit) as end:
        run(convert, COMMAND)
    printed = capsys.readouterr()
    assert end.value.code == 2 and not printed.out
    assert printed.err.startswith("torn.pth cannot be read") and printed.err.count("\n") == 1
    assert sorted(place.iterdir()) == before


def test_without_out_it_only_says_what_the_file_is(place, capsys):
    before = sorted(place.iterdir())
    assert convert(settings(**{"input": "mae_encoder.pth"})) == 0
    printed = capsys.readouterr().out
    assert "draws nothing" in printed and "wrote" not in printed
    assert convert(settings(**{"input": "mae_visualize.pth"})) == 0
    assert "not said by the file; give target=pixels or target=normalised" in capsys.readouterr().out
    assert sorted(place.iterdir()) == before


def test_what_is_left_out_is_said(place, capsys):
    assert convert(settings(**{"input": "mae_visualize.pth"}, out="for_timm.safetensors", format="timm")) == 0
    assert "left out   the decoder: format=timm has no place for it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "input=mae_pretrain_vit_base.pth"),
        ({"input": "nothing.pth", "out": "a.pth"}, "there is no file nothing.pth"),
        ({"input": "other.safetensors", "out": "a.pth"}, "other.safetensors cannot be read"),
        ({"input": "mae_encoder.pth", "out": "a.bin"}, "end it in .safetensors"),
        ({"input": "mae_encoder.pth", "out": "a.pth", "format": "transformer"}, "did you mean 'transformers'"),
        ({"input": "mae_encoder.pth", "out": "a", "format": "huggingface"}, "it is now called 'transformers'"),
        ({"input": "mae_encoder.pth", "out": "mae_visualize.pth"}, "mae_visualize.pth exists"),
        ({"input": "mae_visualize.pth", "out": "a.pth", "target": "raw"}, "target=pixels or target=normalised"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(place, values, named):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    with pytest.raises(InvalidSetting) as error:
        convert(settings(**values))
    assert named in str(error.value) and "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
