"""Where several answers are right, objectives give their mean, their median, or one of them."""

import pytest
import torch

from experiments.averaging import OBJECTIVES, PATCH, SLOPES, distances, fill, main, scenes, train


def answers(case):
    return scenes(100, SLOPES[case], torch.Generator().manual_seed(1))


def after(expression, case, steps):
    return distances(fill(train(expression, SLOPES[case], steps), answers(case)), answers(case))


def test_squared_error_gives_the_mean_of_the_answers():
    to = after("mse", "three", 300)
    assert to["mean"] < 0.02 and to["median"] > 0.1 and to["nearest answer"] > 0.15


def test_absolute_error_gives_the_median_where_it_is_unique():
    to = after("l1", "three", 400)
    assert to["median"] < 0.03 and to["mean"] > 0.1 and to["nearest answer"] > 0.15


def test_absolute_error_gives_anything_between_two_answers():
    assert after("l1", "two", 300)["median"] < 0.01


@pytest.mark.slow
def test_the_adversarial_term_goes_to_one_of_the_answers():
    """Not all the way in a third of the steps: less than half as far from an answer as from the mean."""
    to = after("adversarial", "two", 600)
    assert to["mean"] > 0.15 and to["nearest answer"] < 0.5 * to["mean"]


def test_answers_agree_where_they_are_visible_and_differ_where_hidden():
    for case in SLOPES:
        all_answers = answers(case)
        assert (all_answers[..., :PATCH] == all_answers[:, :1, ..., :PATCH]).all()
        assert ((all_answers[:, 1:] - all_answers[:, :-1])[..., PATCH:].abs().amax((2, 3, 4)) > 0.3).all()
        assert all_answers.min() >= 0 and all_answers.max() <= 1


@pytest.mark.parametrize("case", SLOPES)
def test_distances_are_zero_at_their_goals(case):
    all_answers = answers(case)
    between = all_answers[:, 0].lerp(all_answers[:, -1], 0.3)
    assert distances(all_answers.mean(1), all_answers)["mean"] == pytest.approx(0, abs=1e-7)
    assert distances(all_answers[:, 1], all_answers)["nearest answer"] == 0
    assert (distances(between, all_answers)["median"] < 1e-7) == (case == "two")
    assert distances(all_answers.sort(1).values[:, 1], all_answers)["median"] == 0


def test_the_picture_is_written_where_it_was_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.averaging.STEPS", dict.fromkeys(OBJECTIVES, 2))
    monkeypatch.setattr("sys.argv", ["averaging", "--out", str(tmp_path / "a.png")])
    main()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(SLOPES) * len(OBJECTIVES)
