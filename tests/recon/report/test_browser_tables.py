"""The tables of the page in a real browser: they sort, explain themselves, and mark what is given."""

import pytest

from tests.recon.report.comparison import METRICS, REASONS, ROWS, comparison

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def page(page):
    """The page with every table that it can show."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    return page


def order(page) -> list[str]:
    return page.eval_on_selector_all("#all-columns tbody tr", "rows => rows.map(row => row.dataset.key)")


def head(page, metric: str):
    return page.locator(f"#all-columns th[data-metric={metric}]")


@pytest.mark.parametrize("metric", METRICS)
def test_a_header_sorts_by_value_and_turns_round_with_undefined_last(page, metric):
    values = {row["key"]: row["values"][metric]["value"] for row in comparison()["rows"]}
    defined = sorted((key for key in values if values[key] is not None), key=values.get)
    undefined = [key for key in order(page) if values[key] is None]
    first, second = (defined, defined[::-1]) if METRICS[metric][-1] == "lower" else (defined[::-1], defined)
    for expected, told in ((first, first is defined), (second, second is defined)):
        head(page, metric).locator("button").click()
        found = order(page)
        assert [values[key] for key in found if values[key] is not None] == [values[key] for key in expected]
        assert found[len(expected) :] == undefined
        assert head(page, metric).get_attribute("aria-sort") == ("ascending" if told else "descending")
        sorted_heads = page.locator("#all-columns [aria-sort=ascending], #all-columns [aria-sort=descending]")
        assert sorted_heads.count() == 1
    page.locator("#all-columns th.name button").first.click()
    assert order(page) == [key for key, _, _ in ROWS]


def test_sorting_works_from_the_keyboard_and_by_one_column_at_a_time(page):
    for metric, told in (("tenengrad", "descending"), ("kid", "ascending")):
        head(page, metric).locator("button").focus()
        page.keyboard.press("Enter")
        directions = page.eval_on_selector_all("#all-columns [aria-sort]", "all => all.map(one => one.ariaSort)")
        assert set(directions) == {"none", told} and directions.count(told) == 1
        assert head(page, metric).get_attribute("aria-sort") == told


@pytest.mark.parametrize("reach", ["hover", "focus"])
@pytest.mark.parametrize("metric", ["masked_psnr", "seam_ratio"])
def test_a_header_tells_what_its_metric_means(page, metric, reach):
    tip, button = page.locator("#tip"), head(page, metric).locator("button")
    assert tip.is_hidden()
    button.scroll_into_view_if_needed()
    page.wait_for_timeout(100)  # a tip leaves with what is scrolled away
    getattr(button, reach)()
    assert tip.is_visible()
    info = next(found for found in comparison()["metrics"] if found["name"] == metric)
    told = tip.inner_text()
    for part in (info["description"], info["unit"], info["reference"], "range 0 to ∞"):
        assert part in told
    assert {"higher": "Higher is better", "truth": "equals the truth"}[info["better"]] in told
    described = button.get_attribute("aria-describedby")
    assert info["description"] in page.locator(f"[id='{described}']").text_content()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_an_undefined_value_is_a_dash_with_its_reason(page):
    for key, metric in (("truth", "kid"), ("runs/mse", "ms_ssim")):
        column = list(METRICS).index(metric)
        cell = page.locator(f"#all-columns tr[data-key='{key}'] td").nth(column)
        assert cell.inner_text() == "\N{EN DASH}"
        cell.focus()
        assert page.locator("#tip").inner_text() == REASONS[metric]


def test_values_stand_over_their_intervals(page):
    cell = page.locator("#all-columns tr[data-key='runs/mse'] td").nth(list(METRICS).index("masked_psnr"))
    values = next(row for row in comparison()["rows"] if row["key"] == "runs/mse")["values"]["masked_psnr"]
    shown, interval = cell.inner_text().split("\n")
    assert shown == f"{values['value']:.1f}"
    assert interval == f"[{values['low']:.1f}, {values['high']:.1f}]"
    assert float(cell.get_attribute("data-value")) == values["value"]


def test_best_is_marked_only_where_it_is_given(page):
    found = page.eval_on_selector_all(
        "#all-columns tbody tr",
        """rows => rows.flatMap(row => [...row.cells].map((cell, i) => [row.dataset.key, i - 1, cell])
            .filter(([, , cell]) => cell.querySelector("strong") || cell.classList.contains("best"))
            .map(([key, i]) => [key, i]))""",
    )
    marked = {(key, list(METRICS)[i]) for key, i in found}
    assert marked == {(key, metric) for metric, keys in comparison()["best"].items() for key in keys}
    assert marked


def test_differences_say_whether_rows_are_told_apart(page):
    rows = page.locator("#differences details tbody tr")
    told = [mark.get_attribute("aria-label") for mark in rows.locator("td .mark").all()]
    found = [("told apart" if d["excludes_zero"] else "not told apart") for d in comparison()["differences"]]
    assert told == found
    assert set(found) == {"told apart", "not told apart"}
    assert "mse" in rows.nth(0).inner_text() and "adversarial" in rows.nth(0).inner_text()


def test_the_first_table_has_a_column_of_each_kind_and_the_others_are_folded_away(open_page, file):
    page = open_page(file)
    shown = page.eval_on_selector_all("#table th[data-metric]", "all => all.map((one) => one.dataset.metric)")
    assert shown == ["masked_psnr", "seam_ratio", "kid", "linear_mean"]
    groups = page.locator("#table .groups th").all_inner_texts()
    assert groups[1:] == ["fidelity", "seams", "realism", "representation"]
    assert page.locator("#table").is_visible() and page.locator("#all-columns").is_hidden()
    page.locator("#numbers summary").click()
    assert page.locator("#all-columns").is_visible()


def test_commands_can_be_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#made .copy").nth(1).click()
    page.locator("#made .copy", has_text="copied").wait_for()
    commands = comparison()["made"]["runs/adversarial"]["commands"]
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(commands)


@pytest.mark.parametrize("width", [800, 1200])
def test_only_the_tables_scroll_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == width
