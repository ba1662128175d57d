"""The page as a file: one, complete, and safe whatever runs are called."""

import base64
import copy
import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from losses.errors import InvalidSetting
from recon.report.page import PARTS, embedded, picture_data, write_page
from tests.recon.report.comparison import ROWS, SCRIPT, P, comparison, pictures


@pytest.fixture(autouse=True)
def short_plotly(monkeypatch):
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly.js */")


def written(tmp_path, found=None, shown=None) -> str:
    path = write_page(found or comparison(), shown or pictures(), tmp_path)
    assert path == tmp_path / "index.html"
    return path.read_text(encoding="utf-8")


def test_the_page_is_one_file_and_takes_its_name_when_it_is_whole(tmp_path, monkeypatch):
    written(tmp_path)
    before = (tmp_path / "index.html").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    monkeypatch.setattr("recon.report.page.render", lambda *_: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        write_page(comparison(), pictures(), tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before


def test_the_page_holds_plotly_once_and_asks_for_nothing(tmp_path):
    html = written(tmp_path)
    assert html.count("/* plotly.js */") == 1
    for part in PARTS.iterdir():
        assert part.suffix == ".j2" or part.read_text() in html
    assert "default-src 'none'" in html
    assert set(re.findall(r"<[^>]*\s(?:src|href|action)=([^>]*)>", html)) == {'"data:,"'}
    assert "http" not in html.replace("http-equiv", "")


def test_names_notes_and_settings_are_escaped_wherever_they_stand(tmp_path):
    bad = "<img src=x onerror=alert(2)>\"'&"
    found = copy.deepcopy(comparison())
    found["title"] = found["protocol"]["data"] = found["protocol"]["digest"] = bad
    for row in found["rows"]:
        row["label"] = row["note"] = bad
    for metric in found["metrics"]:
        metric["what"] = metric["unit"] = metric["reference"] = bad
    for made in found["made"].values():
        made |= {"expression": bad, "differs": {bad: bad}, "commands": [bad]}
        made["weights"] = {bad: {"source": bad, "sha256": bad}}
    html = written(tmp_path, found, pictures() | {"names": [bad] * len(pictures()["names"])})
    assert "<img src" not in html
    assert html.count("&lt;img src=x onerror=alert(2)&gt;&#34;&#39;&amp;") > 50


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


def test_pictures_are_carried_to_the_bit():
    data = picture_data(comparison()["rows"], pictures())
    shown = [None if key == "truth" else pictures()["rows"][key] for key, _, _ in ROWS]
    for found, images in zip([data["truth"], *data["predictions"]], [pictures()["truth"], *shown], strict=True):
        if images is None:
            assert found is None
            continue
        decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in found]
        assert np.array_equal(decoded, images)
    columns = pictures()["hidden"].shape[2] // P
    for bits, hidden in zip(data["masks"], pictures()["hidden"], strict=True):
        patches = np.array(list(bits)).reshape(-1, columns) == "1"
        assert np.array_equal(patches.repeat(P, 0).repeat(P, 1), hidden)


def test_a_row_without_pictures_has_no_panel(tmp_path):
    shown = pictures() | {"rows": {key: found for key, found in pictures()["rows"].items() if key != "mosaic"}}
    html = written(tmp_path, shown=shown)
    assert html.count("<figure data-row=") == len(ROWS) - 1


def test_one_run_alone_has_a_page(tmp_path):
    found = copy.deepcopy(comparison())
    keep = ["truth", "runs/mse"]
    found["rows"] = [row for row in found["rows"] if row["key"] in keep]
    found |= {"differences": [], "by_distance": {}, "training": {}, "best": {}}
    found["made"] = {"runs/mse": found["made"]["runs/mse"] | {"differs": {}}}
    found["checkpoints"] = {}
    html = written(tmp_path, found)
    assert "There are no two runs to compare." in html
    assert "Settings that differ" not in html
    assert 'id="plot-gradient_norms"' not in html


@pytest.mark.parametrize("name", ["jinja2", "plotly"])
def test_a_missing_package_is_named_with_the_remedy(tmp_path, monkeypatch, name):
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidSetting, match=rf"^the page of a comparison needs {name}; install recon\[report\]$"):
        write_page(comparison(), pictures(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_others_says_what_it_is_and_its_names_are_names(tmp_path):
    page = written(tmp_path)
    made = page[page.index('id="made"') :]
    assert "a checkpoint of others: the official MAE code" in made and "12 blocks of width 192" in made
    assert "python -m recon.evaluate run=x.pth" in made and "00ff" in made
    assert SCRIPT not in page
