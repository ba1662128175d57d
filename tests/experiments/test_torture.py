"""The trials of `python -m experiments.torture`, few of each kind; the command tries many."""

import pytest

from experiments.torture.__main__ import PARTS
from experiments.torture.trial import Trial


@pytest.mark.parametrize(
    "part, cases",
    [
        ("expressions", 5),
        ("pictures", 1),
        pytest.param("pickles", 1, marks=pytest.mark.slow),
        pytest.param("damage", 4, marks=pytest.mark.slow),
        pytest.param("names", 2, marks=pytest.mark.slow),
    ],
)
def test_a_few_trials_of_each_kind_hold(part, cases, tmp_path):
    trials = list(PARTS[part](tmp_path, cases, 0))
    assert len(trials) > cases
    assert [trial for trial in trials if trial.fault is not None] == []


def test_a_fault_is_seen():
    """The trials would notice: a reader that takes what was changed, and one that fails by itself."""
    from experiments.torture.trial import ask, digest

    assert digest({"a": [1, 2.0]}) != digest({"a": [1, 2.5]})
    _, fault = ask(lambda: {}["missing"])
    assert fault is not None and Trial("case", fault).fault.startswith("KeyError")
