"""Parses "mse + 0.01*perceptual" into terms and writes it back; errors suggest a correction."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from losses.options import TERM_OPTIONS, InvalidSetting, TermOptions, nearest

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TERM = re.compile(rf"\s*(?:(?P<number>{_NUMBER})\s*(?P<kind>[*%])\s*)?(?P<name>[A-Za-z_]\w*)\s*")


@dataclass(frozen=True)
class WeightedTerm:
    """A term's name and its weight, or, with `share`, its percentage of the plain terms' gradient norm."""

    name: str
    weight: float
    share: bool = False


@dataclass(frozen=True)
class Expression:
    """A parsed objective; `str` gives its canonical form, which parses back to the same."""

    terms: tuple[WeightedTerm, ...]
    defaults: Mapping[str, WeightedTerm]

    def __str__(self) -> str:
        return " + ".join(self._written(term) for term in self.terms)

    def _written(self, term: WeightedTerm) -> str:
        number = repr(term.weight).removesuffix(".0")
        if term.share:
            return f"{number}%{term.name}"
        return term.name if term == self.defaults[term.name] and term.weight == 1 else f"{number}*{term.name}"


def defaults(options: Mapping[str, type[TermOptions]] = TERM_OPTIONS) -> dict[str, WeightedTerm]:
    """The weight that a bare name has, for every term, from the terms' options by name."""
    return {name: WeightedTerm(name, o.default_weight, o.default_is_share) for name, o in options.items()}


def parse(text: str, defaults: Mapping[str, WeightedTerm]) -> Expression:
    """Parses an objective.

    Grammar: TERM ('+' TERM)*, where TERM is `name`, `0.1*name` (times the term's value) or `10%name` (10% of the
    gradient norm of the terms with plain weights). White space is free. A bare name takes its default weight or
    percentage; if all terms are bare names and their defaults are percentages, they have the weight 1.

    Args:
        defaults: the known terms, each with the weight of its bare name.

    Raises:
        InvalidSetting: an unknown or repeated term, bad syntax, or percentages alone.
    """
    text = " ".join(text.split())
    terms: list[WeightedTerm] = []
    bare, position = True, 0
    while True:
        found = _TERM.match(text, position)
        if not found:
            raise InvalidSetting(_syntax(text, position))
        name, number = found["name"], found["number"]
        if name not in defaults:
            known = ", ".join(sorted(defaults))
            raise InvalidSetting(f"unknown loss term '{name}' in '{text}'{nearest(name, defaults)} (terms: {known})")
        if name in (term.name for term in terms):
            raise InvalidSetting(f"loss term '{name}' stands twice in '{text}'; give it once, with one weight")
        bare &= number is None
        terms.append(defaults[name] if number is None else WeightedTerm(name, float(number), found["kind"] == "%"))
        position = found.end()
        if position == len(text):
            break
        if text[position] != "+":
            raise InvalidSetting(_syntax(text, position))
        position += 1
    if bare and all(term.share for term in terms):
        terms = [WeightedTerm(term.name, 1.0) for term in terms]  # there is nothing that percentages could refer to
    if all(term.share for term in terms):
        raise InvalidSetting(f"'{text}' has percentages alone, which refer to nothing; give one term a plain weight")
    if not all(term.weight < float("inf") for term in terms):
        raise InvalidSetting(f"a weight in '{text}' is too large for a float")
    return Expression(tuple(terms), defaults)


def _syntax(text: str, position: int) -> str:
    rest = text[position:].strip()
    where = f"at '{rest}'" if rest else "at its end"
    return f"cannot read the loss '{text}' {where}; write terms like mse + 0.1*l1 + 10%perceptual"
