"""Verdicts in words: what the corrected differences show is said, and what they do not show is called no different."""

import re
from dataclasses import replace

import pytest
import torch

from recon.comparison.differences import difference, differences, distances, with_decisions
from recon.comparison.verdict import invented_of_added, with_verdicts
from recon.evaluation.evaluator import columns_of
from recon.evaluation.protocol import Protocol
from recon.result_table import Column, Comparison, Difference, Made, Results, RowInfo, Value
from recon.scoreboard import verdicts
from recon.study_config import EvaluateSettings
from tests.recon.comparison.conftest import made_of

N = 60
COLUMNS = columns_of(EvaluateSettings(), bound=False)
TRUE = {"tenengrad": torch.linspace(1, 2, N, dtype=torch.float64), "seam_ratio": torch.ones(N, dtype=torch.float64)}


def noise(seed: int) -> torch.Tensor:
    """Of mean zero and deviation one, exactly."""
    z = torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (z - z.mean()) / z.std()


def moments(retention: float, coherent: float) -> torch.Tensor:
    """(n, distances, bands, 4) of bands that all have this retention, and this share of it coherent."""
    gain = (retention * coherent) ** 0.5
    bands = torch.tensor([1.0, 1.0, retention, gain], dtype=torch.float64).expand(N, 2, 4, 4)
    return bands * (1 + 0.1 * noise(9)).view(N, 1, 1, 1)


def numbers(psnr: float, lpips: float, detail: float, retention: float = 0.2, coherent: float = 1.0, seed: int = 1):
    """A row whose PSNR, LPIPS, detail and recovery are these; SSIM is noise, and seams are those of the truth."""
    return {
        "masked_psnr": psnr + 0.1 * noise(seed),
        "lpips": lpips + 0.01 * noise(seed + 20),
        "ssim": 0.5 + 0.1 * noise(seed + 40),
        "tenengrad": detail * TRUE["tenengrad"],
        "seam_ratio": 1 + 0.1 * noise(seed + 60),
        "moments": moments(retention, coherent),
    }


def compared(rows: dict[str, dict], expressions: dict[str, str], own=()) -> Comparison:
    """Runs called as their keys; those of `own` minimised features of LPIPS' network."""
    tensors = {key: (made_of({"run": found, "truth": TRUE}), "run") for key, found in rows.items()}
    infos = [RowInfo(key, key, "run", own=("lpips",) if key in own else ()) for key in rows]
    values = [
        Value("", key, name, value=found["tenengrad"].sum().item() / TRUE["tenengrad"].sum().item())
        if name == "detail"
        else Value("", key, name, value=0.0 if name == "invented" else found[name].mean().item())
        for key, found in rows.items()
        for name in ("masked_psnr", "lpips", "ssim", "detail", "seam_ratio", "invented")
    ]
    protocol = Protocol("photos", "val", N, (16, 16), 4, "random", 0.75, 0)
    made = {key: Made(expression, {}, {}, 1, "", []) for key, expression in expressions.items()}
    found = Comparison(
        "", "", protocol, "", None, COLUMNS, infos, Results(values), {}, differences(COLUMNS, tensors), made
    )
    return with_verdicts(with_decisions(replace(found, distances=distances(COLUMNS, tensors))), tensors)


BLURRED = numbers(20, 0.4, 0.1)
SHARP = numbers(18, 0.3, 0.4, retention=0.8, coherent=0.5, seed=2)


def test_a_verdict_says_what_is_told_apart_and_what_is_not():
    """Retention rises by 0.6, of which 0.4 is not coherent: two thirds."""
    found = compared({"a": SHARP, "b": BLURRED}, {"a": "perceptual + mse", "b": "mse"})
    assert found.verdicts == {
        "a": "sharper (detail 0.400 against 0.100 of the truth's); 67% of the added energy is invented (67% to 67%); "
        "better: LPIPS 0.300 against 0.400; worse: PSNR 18.00 against 20.00, invented 0.000 against 0.000; "
        "no different: SSIM, seams."
    }
    assert found.best["lpips"] == ["a"] and found.best["masked_psnr"] == ["b"] and found.best["ssim"] == []


def test_equal_runs_are_no_different_in_anything_though_their_values_differ():
    other = numbers(20.01, 0.401, 0.1, seed=3)
    found = compared({"a": BLURRED, "b": other}, {"a": "mse", "b": "l1"})
    (words,) = found.verdicts.values()
    assert words == "no different: PSNR, SSIM, LPIPS, detail, seams, invented."
    assert not any(d.excludes_zero for d in found.differences) and not any(found.best.values())


def test_turned_round_a_verdict_says_the_opposite():
    words = {}
    for plain in "ab":
        expressions = {"a": "l1", "b": "l1"} | {plain: "mse"}
        words |= compared({"a": SHARP, "b": BLURRED}, expressions).verdicts
    assert words["b"].startswith("blurrier (detail 0.100 against 0.400") and "added energy" not in words["b"]
    swap = {"better": "worse", "worse": "better"}
    groups = [dict(re.findall(r"(better|worse): ([^;.]*\d)[;.]? ?", text)) for text in (words["a"], words["b"])]
    names = [{word: set(re.findall(r"[A-Za-z]+(?= \d)", text)) for word, text in each.items()} for each in groups]
    assert names[0] == {swap[word]: found for word, found in names[1].items()}


def test_a_column_of_its_own_network_is_named_and_not_judged():
    for own in ("a", "b"):  # also where the reference minimised it
        (words,) = compared({"a": SHARP, "b": BLURRED}, {"b": "mse"}, own=own).verdicts.values()
        assert words.endswith("not judged by its own network: LPIPS.") and words.count("LPIPS") == 1


@pytest.mark.parametrize(
    ("low", "p", "said"),
    [(-0.01, 0.3, "no different: SSIM, seams, linear probe."), (0.02, 1e-9, "linear probe 0.510 against 0.480")],
)
def test_the_probe_is_told_where_runs_were_probed(low, p, said):
    found = compared({"a": SHARP, "b": BLURRED}, {"b": "mse"})
    column = Column("representation", "linear_mean", "", "", 0, 1, "higher", "", paired=False)
    values = [Value("", key, "linear_mean", value=value) for key, value in (("a", 0.51), ("b", 0.48))]
    probed = Difference("linear_mean", "a", "b", 0.03, low, 0.07, low > 0, 500, p, p)
    more = replace(found, columns=[*COLUMNS, column], results=found.results + values)
    more = with_decisions(replace(more, differences=[*found.differences, probed]))
    tensors = {key: (made_of({"run": row}), "run") for key, row in {"a": SHARP, "b": BLURRED}.items()}
    assert said in with_verdicts(more, tensors).verdicts["a"]
    assert more.best["linear_mean"] == (["a"] if low > 0 else [])


def test_few_images_are_not_called_no_different():
    few = {key: {name: x[:9] for name, x in found.items()} for key, found in {"a": SHARP, "b": BLURRED}.items()}
    tensors = {
        key: (made_of({"run": x, "truth": {n: t[:9] for n, t in TRUE.items()}}), "run") for key, x in few.items()
    }
    found = compared({"a": SHARP, "b": BLURRED}, {"b": "mse"})
    found = replace(found, differences=differences(COLUMNS, tensors), distances=distances(COLUMNS, tensors))
    (words,) = with_verdicts(with_decisions(found), tensors).verdicts.values()
    assert words == "too few images: PSNR, SSIM, LPIPS, detail, seams, invented."


@pytest.mark.parametrize(
    ("expressions", "reference", "why"),
    [
        ({"a": "l1", "b": "mse", "c": "norm_mse"}, "b", "the one run of plain mse"),
        ({"a": "l1", "b": "mse", "c": "mse"}, "a", "the first run"),
        ({"a": "l1", "b": "norm_mse", "c": "2*mse + l1"}, "a", "the first run"),
        ({"b": "mse"}, "b", "the one run of plain mse"),  # the others are checkpoints of others
    ],
)
def test_the_reference_is_the_one_run_of_mse_or_the_first_and_is_named(expressions, reference, why):
    found = compared({"a": SHARP, "b": BLURRED, "c": SHARP}, expressions)
    assert found.against.startswith(f"Against {reference}, {why}, ")
    assert set(found.verdicts) == {"a", "b", "c"} - {reference}
    seeds = "experiments.seeds" in found.against
    assert (
        seeds == (len(set(expressions.values())) < len(expressions)) and "other seeds are not covered" in found.against
    )


def test_one_run_alone_and_an_oracle_have_no_verdict():
    assert compared({"a": SHARP}, {"a": "mse"}).verdicts == {}
    found = compared({"run/a": SHARP, "oracle/a": BLURRED}, {"run/a": "norm_mse"})
    assert found.verdicts == {} and found.against == "" and verdicts(found) == []


def test_the_invented_share_of_the_added_energy_is_the_ratio_of_paired_differences():
    rows = [(made_of({"run": each}), "run") for each in (SHARP, BLURRED)]
    share = invented_of_added(*rows)
    assert share.value == pytest.approx(2 / 3, rel=1e-9)
    expected = difference("invented", *rows).value / difference("retention", *rows).value
    assert share.value == pytest.approx(expected, rel=1e-9)
    assert invented_of_added(rows[0], (made_of({"run": {}}), "run")) is None


def test_verdicts_in_the_terminal_fit_it_and_name_their_rows():
    found = compared({"a": SHARP, "b": BLURRED}, {"b": "mse"})
    lines = "\n".join(verdicts(found)).splitlines()
    assert max(map(len, lines)) <= 100 and any(line.startswith("a: sharper") for line in lines)
