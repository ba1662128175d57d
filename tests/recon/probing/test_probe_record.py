"""probe.json and probe.safetensors: they read back, and no change of a byte goes unnoticed."""

import json
from dataclasses import replace
from itertools import product

import pytest
import torch

from losses import InvalidSetting
from recon.probing.probe_results import JSON, TENSORS, DataInfo, EncoderInfo, ProbeRecord, ProbeResult, read, write
from recon.probing.probe_run import doubtful_choices

NAME = "caf\udce9 \x1b[31m é"  # a folder's name that is not UTF-8, with a control character


@pytest.fixture
def record() -> ProbeRecord:
    correct = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) < 0.7
    chosen = {"weight_decay": 0.1, "on_border": [], "converged": True}
    empty = ProbeRecord(
        run=NAME,
        encoders={"run": EncoderInfo(NAME, "00ff"), "pixels": EncoderInfo("raw pixels", "none")},
        data=DataInfo("folder", "12ab", 100, 20, ["cat", NAME], [16, 24]),
        seeds=[0, 1],
        settings={"precision": "fp32", "run": NAME},
        caveats=["A caveat."],
    )
    asked = [("run", "linear", "mean/4"), ("pixels", "linear", "pixels")]
    results = [ProbeResult(encoder, probe, "", on, 1.0, correct, [chosen, chosen]) for encoder, probe, on in asked]
    return empty.with_results(results)


def same(one: ProbeRecord, other: ProbeRecord) -> bool:
    results = [
        [(each.name, each.chosen, each.per_image.tolist()) for each in record.results.values()]
        for record in (one, other)
    ]
    return results[0] == results[1] and replace(one, results={}) == replace(other, results={})


def test_a_record_reads_back_whatever_names_it_holds(record, tmp_path):
    assert read(tmp_path) is None
    write(tmp_path, record)
    found = read(tmp_path)
    assert found is not None and same(found, record)


@pytest.mark.parametrize("name", [JSON, TENSORS])
def test_a_flipped_bit_is_noticed(record, tmp_path, name):
    write(tmp_path, record)
    path = tmp_path / name
    content, noticed = path.read_bytes(), 0
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            found = read(tmp_path)
        except InvalidSetting as error:
            assert str(path) in str(error) and "\n" not in str(error)
            noticed += 1
        else:
            assert found is not None and same(found, record), (at, content[at])  # a blank of another kind
    assert noticed > len(content) / 3 * 0.8


def test_a_record_of_another_form_is_named(record, tmp_path):
    """Also one without a checksum, as earlier versions wrote it."""
    write(tmp_path, record)
    page = json.loads((tmp_path / JSON).read_text())
    del page["checksum"]
    (tmp_path / JSON).write_text(json.dumps(page))
    assert same(read(tmp_path), record)
    for name, value in product(page, (None, [None], "abc")):
        if (name, value) != ("run", "abc"):
            (tmp_path / JSON).write_text(json.dumps(page | {name: value}))
            with pytest.raises(InvalidSetting, match="cannot be read"):
                read(tmp_path)
    for name in page:
        (tmp_path / JSON).write_text(json.dumps({key: value for key, value in page.items() if key != name}))
        with pytest.raises(InvalidSetting, match="cannot be read"):
            read(tmp_path)
    for text in ("", "[]", "{", "[" * 5000, "\x00"):
        (tmp_path / JSON).write_text(text)
        with pytest.raises(InvalidSetting, match=r"cannot be read .*; again=true probes anew"):
            read(tmp_path)


def test_files_of_two_probings_are_none(record, tmp_path):
    """A kill between the two files leaves this."""
    write(tmp_path, replace(record, seeds=[5, 6]))
    tensors = (tmp_path / TENSORS).read_bytes()
    write(tmp_path, record)
    (tmp_path / TENSORS).write_bytes(tensors)
    assert read(tmp_path) is None


def test_a_choice_at_the_grid_s_end_and_a_loss_that_still_falls_are_printed(record):
    assert list(doubtful_choices(record)) == []
    chosen = [
        {"weight_decay": 1e-6, "on_border": ["weight_decay"], "converged": True},
        {"weight_decay": 0.1, "on_border": [], "converged": False},
    ]
    changed = replace(record.results["run/linear/mean/4/1"], chosen=chosen)
    name = f"linear, mean of the patch tokens of block 4, 100% of the labels, on {NAME}"
    assert list(doubtful_choices(record.with_results([changed]))) == [
        f"Not converged: {name}; its accuracy may be too low.",
        f"Weight decay at an end of its grid (1e-06; 1 of 2 seeds): {name}; a better one may lie outside.",
    ]
