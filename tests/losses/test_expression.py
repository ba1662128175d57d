"""Expressions: parsing, the canonical form, and errors of one line."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from losses import InvalidSetting
from losses.expression import WeightedTerm, parse
from tests.losses.scenes import one_line

WEIGHTS = {"mse": 1.0, "l1": 1.0, "norm_mse": 1.0, "perceptual": 0.01}
DEFAULTS = {name: WeightedTerm(name, weight) for name, weight in WEIGHTS.items()}
DEFAULTS["adversarial"] = WeightedTerm("adversarial", 200.0, share=True)
NUMBERS = st.floats(min_value=0, allow_infinity=False, allow_nan=False)
SPACE = st.text(alphabet=" \t", max_size=3)


@st.composite
def written(draw) -> tuple[str, list[WeightedTerm]]:
    """An objective as somebody might type it, and what it means."""
    names = draw(st.lists(st.sampled_from(sorted(DEFAULTS)), min_size=1, unique=True))
    plain = draw(st.integers(0, len(names) - 1))  # one term at least refers to itself
    pieces, terms = [], []
    for i, name in enumerate(names):
        kinds = ["bare", "*"] if i == plain and (name in WEIGHTS or len(names) == 1) else ["bare", "*", "%"]
        kinds = ["*"] if i == plain and name not in WEIGHTS and len(names) > 1 else kinds
        kind, number = draw(st.sampled_from(kinds)), draw(NUMBERS)
        digits = draw(st.sampled_from([repr(number), f"{number:.17e}", f"{number:.17E}"]))
        words = [name] if kind == "bare" else [digits, kind, name]
        pieces.append("".join(draw(SPACE) + word + draw(SPACE) for word in words))
        terms.append(DEFAULTS[name] if kind == "bare" else WeightedTerm(name, number, kind == "%"))
    if terms == [DEFAULTS["adversarial"]]:
        terms = [WeightedTerm("adversarial", 1.0)]  # there is nothing that it could be a percentage of
    return "+".join(pieces), terms


@given(written())
def test_every_expression_means_what_is_written(case):
    text, terms = case
    assert list(parse(text, DEFAULTS).terms) == terms


@given(written())
def test_the_canonical_form_parses_back_to_itself(case):
    parsed = parse(case[0], DEFAULTS)
    again = parse(str(parsed), DEFAULTS)
    assert again == parsed
    assert str(again) == str(parsed)


@given(written())
def test_the_canonical_form_means_the_same_under_other_defaults(case):
    """A run is saved by its canonical form; a default that changes later must not change the run."""
    parsed = parse(case[0], DEFAULTS)
    later = parse(str(parsed), {name: t if t.weight == 1 else WeightedTerm(name, 7.0) for name, t in DEFAULTS.items()})
    assert later.terms == parsed.terms


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mse", "mse"),
        ("1*mse", "mse"),
        ("perceptual", "0.01*perceptual"),
        ("1*perceptual", "1*perceptual"),
        ("perceptual+mse", "0.01*perceptual + mse"),
        (" mse+\t.5 * l1 ", "mse + 0.5*l1"),
        ("mse+10%perceptual", "mse + 10%perceptual"),
        ("mse + 2.50 % perceptual", "mse + 2.5%perceptual"),
        ("mse + 1e-3*l1", "mse + 0.001*l1"),
        ("100000*mse", "100000*mse"),
        ("100%l1 + mse", "100%l1 + mse"),
    ],
)
def test_canonical_form(text, canonical):
    assert str(parse(text, DEFAULTS)) == canonical


def test_a_bare_name_takes_its_default_weight():
    assert [term.weight for term in parse("perceptual + mse", DEFAULTS).terms] == [0.01, 1.0]


def test_terms_keep_the_order_in_which_they_are_written():
    assert [term.name for term in parse("l1 + mse + norm_mse", DEFAULTS).terms] == ["l1", "mse", "norm_mse"]


def test_an_integer_default_is_written_like_any_other():
    assert str(parse("huber", {"huber": WeightedTerm("huber", 3)})) == "3*huber"


def test_percentages_may_exceed_one_hundred():
    assert parse("mse + 250%l1", DEFAULTS).terms[1] == WeightedTerm("l1", 250.0, share=True)


@pytest.mark.parametrize(
    ("text", "named", "remedy"),
    [
        ("perceptuall+mse", "'perceptuall' in 'perceptuall+mse'", "did you mean 'perceptual'?"),
        ("norm-mse", "norm", "mse"),
        ("mse + xyzzy", "'xyzzy'", "adversarial, l1, mse, norm_mse, perceptual"),
        ("MSE", "'MSE'", "terms:"),
        ("mse + mse", "'mse' stands twice", "once"),
        ("mse + 10%mse", "'mse' stands twice", "once"),
        ("10%mse", "'10%mse' has percentages alone", "plain weight"),
        ("10%mse + 20%l1", "percentages alone", "plain weight"),
        ("", "''", "write terms like"),
        ("mse +", "at its end", "write terms like"),
        ("+ mse", "at '+ mse'", "write terms like"),
        ("mse l1", "at 'l1'", "write terms like"),
        ("mse + 0.1", "at '0.1'", "write terms like"),
        ("mse * 0.1", "at '* 0.1'", "write terms like"),
        ("mse + -0.1*l1", "at '-0.1*l1'", "write terms like"),
        ("mse - l1", "at '- l1'", "write terms like"),
        ("0.1 l1", "at '0.1 l1'", "write terms like"),
        ("2*3*mse", "at '2*3*mse'", "write terms like"),
        ("nan*mse", "nan", ""),
        ("1e999*mse", "'1e999*mse' is too large", "float"),
        ("mse + 1e999%l1", "too large", "float"),
        ("9" * 400 + "*mse", "too large", "float"),
    ],
)
def test_what_cannot_be_meant_is_named_in_one_line(text, named, remedy):
    with pytest.raises(InvalidSetting) as error:
        parse(text, DEFAULTS)
    message = one_line(error)
    assert named in message
    assert remedy in message


@given(st.text(alphabet="mse l1norm_+*%.09eE-\t", max_size=20))
@example("mse+l1")
def test_any_text_is_an_expression_or_a_one_line_error(text):
    try:
        parsed = parse(text, DEFAULTS)
    except InvalidSetting as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(math.isfinite(term.weight) and term.weight >= 0 for term in parsed.terms)
        assert parse(str(parsed), DEFAULTS) == parsed


@pytest.mark.parametrize("text", ["mse +\n  perceptuall", "mse\n+ mse", "mse\nl1", "10%\nmse", "1e999*\nmse"])
def test_an_error_about_an_expression_of_several_lines_is_one_line(text):
    """YAML presets can fold an expression over lines."""
    with pytest.raises(InvalidSetting) as error:
        parse(text, DEFAULTS)
    one_line(error)


def test_an_invalid_setting_is_a_value_error():
    assert issubclass(InvalidSetting, ValueError)


def test_bare_percentages_alone_have_weight_one_and_written_ones_are_refused():
    assert parse("adversarial", DEFAULTS).terms == (WeightedTerm("adversarial", 1.0),)
    with pytest.raises(InvalidSetting) as error:
        parse("200%adversarial", DEFAULTS)
    assert "plain weight" in one_line(error)
