"""The page as a file: one, complete, and safe whatever runs are called."""

import base64
import copy
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from recon.report.page import PARTS, embedded, render, write_page
from recon.report.pictures import Panel, Pictures, deviation, panels, picture_data
from recon.report.plots import plots
from tests.recon.report.comparison import DRAWS, ROWS, SCRIPT, P, comparison, comparison_but, label, pictures, typed

FLOW = ["flow: draw 1", "flow: draw 2", "flow: draw 3", "flow: deviation of the draws", "flow: from the mean to a draw"]


@pytest.fixture(scope="session")
def html(file) -> str:
    """The page of the example, with its plots."""
    return file.read_text(encoding="utf-8")


@pytest.fixture
def written(tmp_path, without_drawing):
    """Writes a page of other numbers or pictures, without plots, and returns its text."""

    def page(found=None, shown=None) -> str:
        return write_page(typed(found), shown or pictures(), tmp_path).read_text(encoding="utf-8")

    return page


def test_the_page_is_one_file_and_takes_its_name_when_it_is_whole(tmp_path, written, monkeypatch):
    written()
    before = (tmp_path / "index.html").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    monkeypatch.setattr("recon.report.page.render", lambda *_: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        write_page(typed(), pictures(), tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before


def test_the_page_holds_every_plot_and_asks_for_nothing(html):
    assert html.count("<svg ") == html.count('class="plot"') == len(plots(typed()))
    for part in PARTS.iterdir():
        assert part.suffix == ".j2" or part.read_text() in html
    assert "default-src 'none'" in html
    assert set(re.findall(r"<[^>]*\s(?:src|href|action)=\"([^#][^\"]*)\"", html)) == {"data:,"}
    assert "http" not in html.replace("http-equiv", "")


def test_names_notes_and_settings_are_escaped_wherever_they_stand(monkeypatch):
    monkeypatch.setattr("recon.report.page.plots", lambda comparison: plots(comparison)[:2])  # all draw names alike
    bad = "<img src=x onerror=alert(2)>\"'&"
    found = copy.deepcopy(comparison())
    found["title"] = found["protocol"]["data"] = found["protocol"]["digest"] = bad
    for row in found["rows"]:
        row["label"] = row["note"] = bad
    for metric in found["metrics"]:
        metric["description"] = metric["unit"] = metric["reference"] = bad
    for made in found["made"].values():
        made |= {"expression": bad, "differs": {bad: bad}, "commands": [bad]}
        made["weights"] = {bad: {"source": bad, "sha256": bad}}
    html = render(typed(found), replace(pictures(), names=[bad] * len(pictures().names)))
    assert "<img src" not in html
    assert html.count("&lt;img src=x onerror=alert(2)&gt;&#34;&#39;&amp;") > 50


def test_names_that_are_no_text_are_shown_and_stay_harmless(written):
    bad = "caf\udce9 \x1b[31m\x9b"
    found = copy.deepcopy(comparison())
    found["title"] = bad
    for row in found["rows"]:
        row["label"] = row["note"] = bad
    html = written(found, replace(pictures(), names=[bad] * len(pictures().names)))
    assert html.count("caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}") > 20
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", html)


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)", "<!--<script>", "]]>", "a&amp;b", "\u2028\u2029", 'quo"te\\']
)
def test_embedded_json_reads_back_and_cannot_leave_its_element(text):
    found = embedded({text: [text, 1.5, None]})
    assert json.loads(found) == {text: [text, 1.5, None]}
    assert not set("<>&\u2028\u2029") & set(found)


def test_numbers_that_json_has_no_word_for_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded([float("nan")])


def shown(rows=None, pictured=None) -> list[Panel]:
    return panels(rows or typed().rows, pictured or pictures())


def labels(found: list[Panel]) -> list[str]:
    return [panel.label for panel in found]


def test_rows_are_shown_in_their_order_and_draws_behind_their_mean():
    rows = [label(key) for key, _, _ in ROWS]
    behind = rows.index(label("draws/flow")) + 1
    assert labels(shown()) == [*rows[:behind], *FLOW, *rows[behind:]]
    assert {panel.key for panel in shown() if panel.label in FLOW} == {"draws/flow"}


def test_pictures_are_carried_to_the_bit():
    data, draws = picture_data(shown(), pictures()), pictures().draws["draws/flow"]
    images = {panel.label: pictures().rows[panel.key] for panel in shown() if panel.label not in FLOW}
    hidden = pictures().hidden[..., None]  # what is visible is known
    spread = np.rint(np.minimum(4 * draws.std(1).mean(-1, keepdims=True), 255)).repeat(3, -1) * hidden
    images |= dict(zip(FLOW, [draws[:, 0], draws[:, 1], draws[:, 2], spread, None], strict=True)) | {"truth": None}
    expected = [pictures().truth, *(images[name] for name in labels(shown()))]
    for found, images in zip([data["truth"], *data["predictions"]], expected, strict=True):
        if images is None:
            assert found is None
            continue
        decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in found]
        assert np.array_equal(decoded, images)
    ends = [labels(shown()).index(label(key)) for key in ("run/flow", "sample/flow")]
    assert data["blends"] == [ends if name == FLOW[-1] else None for name in labels(shown())]
    assert data["whole"] == [name == FLOW[-2] for name in labels(shown())]
    columns = pictures().hidden.shape[2] // P
    for bits, hidden in zip(data["masks"], pictures().hidden, strict=True):
        patches = np.array(list(bits)).reshape(-1, columns) == "1"
        assert np.array_equal(patches.repeat(P, 0).repeat(P, 1), hidden)


def without(*keys: str) -> Pictures:
    """The pictures but for those of some rows."""
    return replace(pictures(), rows={key: found for key, found in pictures().rows.items() if key not in keys})


def test_a_row_without_pictures_has_no_panel(html, written):
    assert html.count("<figure data-label=") == len(ROWS) + len(FLOW)
    assert written(shown=without("mosaic")).count("<figure data-label=") == len(ROWS) + len(FLOW) - 1


def test_a_page_without_distributions_has_neither_draws_nor_a_slider(html, written):
    assert html.count('<div class="draws"') == html.count('<label class="blend"') == 1
    plain = written(shown=replace(pictures(), draws={}))
    assert plain.count("<figure data-label=") == len(ROWS)
    assert '<div class="draws"' not in plain and '<label class="blend"' not in plain and "draws from what" not in plain


@pytest.mark.parametrize("lacking", ["run/flow", "sample/flow"])
def test_from_the_mean_to_a_draw_takes_a_row_and_a_picture_of_either(written, lacking):
    rest = comparison_but(lacking)
    for found in (shown(typed(rest).rows), shown(pictured=without(lacking))):
        assert [name for name in labels(found) if name in FLOW] == FLOW[:-1]
        assert not any(panel.blend for panel in found)
    assert '<label class="blend"' not in written(rest)


def test_no_more_draws_are_shown_than_there_are_and_no_more_than_three():
    for count in range(2, DRAWS + 1):
        draws = {"draws/flow": pictures().draws["draws/flow"][:, :count]}
        found = [name for name in labels(shown(pictured=replace(pictures(), draws=draws))) if ": draw " in name]
        assert found == FLOW[: min(count, 3)]


def test_the_deviation_of_draws_ends_at_white():
    draws = np.array([0, 255, 0, 255], np.uint8).reshape(1, 4, 1, 1, 1).repeat(3, -1)
    assert (deviation(draws) == 255).all() and deviation(draws).shape == (1, 1, 1, 3)
    assert (deviation(draws[:, :1]) == 0).all()


def test_the_page_has_the_verdicts_and_names_in_them_stay_names(monkeypatch, tmp_path, without_drawing):
    words = {"runs/adversarial": "sharper than <b>mse</b>", f"runs/{SCRIPT}": "no different: PSNR."}
    found = replace(typed(), verdicts=words, against=f"Against {SCRIPT}, the first run")
    html = render(found, pictures())
    verdicts = html[html.index("In words") : html.index("All 8 columns")]
    assert "sharper than &lt;b&gt;mse&lt;/b&gt;" in verdicts and "no different: PSNR." in verdicts
    assert verdicts.index("adversarial") < verdicts.index("sharper") < verdicts.index("no different")
    assert SCRIPT not in verdicts and "In words" not in render(typed(), pictures())


def test_one_run_alone_has_a_page(written):
    found = copy.deepcopy(comparison())
    keep = ["truth", "runs/mse"]
    found["rows"] = [row for row in found["rows"] if row["key"] in keep]
    found |= {"differences": [], "by_distance": {}, "training": {}, "best": {}}
    found["made"] = {"runs/mse": found["made"]["runs/mse"] | {"differs": {}}}
    found["checkpoints"] = {}
    html = written(found)
    assert "There are no two runs to compare." in html
    assert "Settings that differ" not in html
    assert 'id="plot-gradient_norms"' not in html


def test_a_checkpoint_of_others_says_what_it_is_and_its_names_are_names(html):
    made = html[html.index('id="made"') :]
    assert "a checkpoint of others: the official MAE code" in made and "12 blocks of width 192" in made
    assert "python -m recon.evaluate run=x.pth" in made and "00ff" in made
    assert SCRIPT not in html
