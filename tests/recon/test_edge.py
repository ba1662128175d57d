"""What any terminal can show, where processes come from, and commands that are printed to be typed again."""

import io
import shlex

import pytest
from omegaconf import OmegaConf

from losses import InvalidSetting
from recon.cli import in_one_line, understood
from recon.compare import COMMAND as COMPARE
from recon.config import Settings
from recon.console import PlainOutput, aligned, check_launcher, command_line, one_line
from recon.pretrain import COMMAND
from recon.run_folder import WriteError
from recon.training.device import make_fabric

NAMES = [
    *("my run (1)", "a=b", "a,b", "#1", "it's", "${7*7}", "a\\", "a\\'b", "\\${x}", "a\\\\${b}", '"q"', '\\"', "a b\\"),
    *("007", "null", "True", "1e5", "inf", "1_000", ".5", "", "é", "a\nb", "a\tb", "%d", "*", "!", "mse+0.1*l1"),
    *("[a]", "{a:b}", "a:b", "$HOME", "`id`", "-x", "~x", "a;b"),
]


def typed_back(line: str) -> Settings:
    """The settings that a line means which is pasted into a shell."""
    python, minus, module, *words = shlex.split(line)
    assert (python, minus, module) == ("python", "-m", "recon.pretrain")
    overrides = OmegaConf.structured(Settings)
    for override in parsed(understood(words, COMMAND)[0]):
        OmegaConf.update(overrides, override.key_or_group, override.value())
    return OmegaConf.to_object(overrides)


def test_columns_may_be_asked_for_by_a_flag_too():
    for words in (["runs/a", "--columns", "all", "images=3"], ["runs/a", "columns=all", "images=3"]):
        assert understood(words, COMPARE) == (["columns=all", "images=3"], ["runs/a"], False)
    for words, command in ((["--columns"], COMPARE), (["--columns", "all"], COMMAND)):
        with pytest.raises(InvalidSetting, match="unknown flag '--columns'"):
            understood(words, command)


def parsed(words: list[str]):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(words)


def test_what_is_printed_to_be_typed_means_what_it_was_printed_from():
    for name in NAMES:
        line = command_line("pretrain", {"name": name, "data.root": name, "resume": True, "train.steps": None})
        settings = typed_back(line)
        assert (settings.name, settings.data.root, settings.resume) == (name, name, True), line


def test_plain_names_are_printed_as_they_are():
    line = command_line("pretrain", {"name": "mse-1", "loss": "perceptual+mse"}, "runs/a b")
    assert line == "python -m recon.pretrain 'runs/a b' name=mse-1 loss=perceptual+mse"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_text_can_be_printed_and_none_moves_the_cursor(encoding):
    content = io.BytesIO()
    out = PlainOutput(io.TextIOWrapper(content, encoding=encoding, newline=""))
    print("0.81 ±0.01 … \x1b[2J\x9b1m caf\udce9\t.\r", file=out, flush=True)
    shown = content.getvalue().decode(encoding)
    assert "\x1b" not in shown and "\x9b" not in shown and "\\x1b[2J\\x9b1m" in shown and shown.endswith("\t.\r\n")
    assert ("±" in shown) == (encoding != "ascii") and "\\udce9" in shown


def test_names_stay_in_their_line():
    assert one_line("a\nb\x1b[1m\udce9 é") == "a\\nb\\x1b[1m\\udce9 é"
    assert aligned([["a\nb", "1"]]) == "a\\nb  1"
    assert in_one_line(InvalidSetting("no\nsuch \x1b"), set()) == "no\\nsuch \\x1b"


def test_what_the_system_refuses_is_one_line_that_names_the_file():
    refused = {FileNotFoundError(2, "No such file", "a\nb"): "a\\nb: No such file"}
    refused |= {WriteError(28, "No space left on device", "x"): "x cannot be written: No space left on device"}
    refused |= {OSError("broken"): "broken"}
    for error, line in refused.items():
        assert in_one_line(error, set()) == line


def test_an_error_of_the_system_ends_a_command_with_its_line(type_in):
    def full(*_):
        raise WriteError(28, "No space left on device", "runs/x/checkpoint.pt")

    status, out, err = type_in("data=photos", task=full)
    assert (status, out, err) == (2, "", "runs/x/checkpoint.pt cannot be written: No space left on device\n")


SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "localhost",
}
LSF = {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "missing", "JSM_NAMESPACE_LOCAL_RANK": "0", "JSM_NAMESPACE_SIZE": "4"}


@pytest.mark.parametrize("batch_system", [SLURM, LSF], ids=["Slurm", "LSF"])
def test_a_lone_process_under_a_batch_system_is_alone(monkeypatch, batch_system):
    for name, value in batch_system.items():
        monkeypatch.setenv(name, value)
    check_launcher()
    assert make_fabric("cpu", "fp32").world_size == 1


def test_several_processes_of_another_launcher_are_told_of_torchrun(type_in, monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    status, out, err = type_in("data=photos", task=lambda *_: 0)
    assert status == 2 and out == "" and len(err.splitlines()) == 1
    assert "WORLD_SIZE=4" in err and "torchrun --nproc-per-node=N -m recon.pretrain" in err
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    check_launcher()
