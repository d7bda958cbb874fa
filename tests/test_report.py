"""The report as text: whole markup, a policy that fits, names that stay names, true pictures."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_report import HOSTILE, SPACE, evaluation, shown, write_tiny_report

from segcli.errors import OutputError
from segcli.recipes.report import report_evaluation
from segcli.reporting.html import charts
from segcli.reporting.html.data import ReportData
from segcli.reporting.html.evaluation import render_report
from segcli.reporting.html.markup import Html, el, percent, signed, text
from segcli.reporting.html.pictures import class_thumb, confusion_crop, jpeg, picture
from segcli.reporting.html.summary import findings

# Lone surrogates too, which stand in file names that are not UTF-8.
ANY = st.characters(codec=None)
VOID = {"br", "hr", "img", "input", "link", "meta"}


class Checked(HTMLParser):
    """Fails where a tag is not closed in order; keeps tags with attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_tiny_report(tmp_path_factory.mktemp("report"))
    assert path.name == "index.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def checked(page: str) -> Checked:
    return Checked(page)


@given(st.text(ANY), st.text(ANY))
def test_any_text_comes_back_as_text(inside: str, value: str) -> None:
    def clean(words: str) -> str:
        return "".join(
            c if (c >= " " and not "\ud800" <= c <= "\udfff") or c in "\n\t" else "\ufffd"
            for c in words
        )

    found = Checked(el("p", inside, data_x=value).encode().decode())
    assert found.tags == [("p", {"data-x": clean(value)})]
    assert "".join(found.words) == clean(inside)


def test_markup_is_kept_and_attributes_are_not_markup() -> None:
    assert el("p", el("b", "a<b"), 3, None, ["x", Html("&amp;")]) == "<p><b>a&lt;b</b>3x&amp;</p>"
    assert el("i", class_="a", hidden=True, title=None, aria_sort="none") == (
        '<i class="a" hidden aria-sort="none"></i>'
    )
    assert '"' not in el("i", title=Html('"onclick="'))[10:-6]
    assert text(None) == ""


def test_figures() -> None:
    assert (percent(0.1234), percent(None), percent(12.5)) == ("12.3", "–", "1,250.0")
    assert (signed(0.01), signed(-0.01), signed(0.0001), signed(None)) == ("+1.0", "−1.0", "0", "–")


def test_the_policy_allows_this_style_and_this_script_alone(page: str, checked: Checked) -> None:
    (policy,) = [
        str(m["content"])
        for m in checked.all("meta")
        if m.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["img-src"] == ["data:"]
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == [f"'sha256-{digest}'"]


def test_nothing_is_fetched_and_nothing_is_inline(checked: Checked) -> None:
    assert len(checked.all("script")) == 1
    for tag, attributes in checked.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)


def test_hostile_names_stand_as_text(page: str, checked: Checked) -> None:
    assert "<script>window.pwned" not in page
    assert "<b>kerb</b>" not in page
    words = "".join(checked.words)
    assert words.count(HOSTILE) >= 4
    assert "<b>kerb</b>" in words
    assert "training has shown fog & <more>" in words
    assert not any(a.get("src") == "x" for a in checked.all("img"))


def test_readers_without_eyes(checked: Checked) -> None:
    assert all(a.get("alt") for a in checked.all("img"))
    assert all(a.get("scope") in ("row", "col", "colgroup") for a in checked.all("th"))
    labels = {a.get("for") for a in checked.all("label")}
    for field in checked.all("input"):
        assert field["type"] == "range"
        assert field.get("aria-label") or field.get("id") in labels
    for drawing in checked.all("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing.get("aria-label")
    ids = [a["id"] for _, a in checked.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    targets = {str(a["href"])[1:] for a in checked.all("a")}
    assert targets <= set(ids)
    assert all(a["aria-labelledby"] in ids for a in checked.all("section"))
    assert len(checked.all("h1")) == len(checked.all("caption")) // len(checked.all("table")) == 1


def test_sections_come_and_go_with_their_data() -> None:
    result, _ = evaluation(shown())
    absent = ("instance", "boundary", "objects", "calibration", "critical", "tta", "stress")
    bare = {**result, **dict.fromkeys(absent)}
    full = Checked(render_report(ReportData("a", SPACE, result)))
    found = Checked(render_report(ReportData("a", SPACE, bare)))
    assert [s["id"] for s in found.all("section")] == ["classes", "confusion"]
    more = {"edges", "critical", "calibration", "tta", "stress"}
    assert {s["id"] for s in full.all("section")} == {"classes", "confusion"} | more
    old = {key: value for key, value in bare.items() if key not in absent}
    assert render_report(ReportData("a", SPACE, old)) == render_report(ReportData("a", SPACE, bare))


def test_the_findings_are_those_of_the_matrix() -> None:
    result, _ = evaluation(shown())
    matrix = np.asarray(result["confusion_matrix"])
    off = matrix - np.diag(matrix.diagonal())
    truth, said = np.unravel_index(off.argmax(), off.shape)
    words = [Checked(line) for line in findings(ReportData("a", SPACE, result))]
    (line,) = ["".join(w.words) for w in words if "largest confusion" in "".join(w.words)]
    names = SPACE.class_names
    assert line == (
        f"The largest confusion is {names[truth]} taken for {names[said]}: "
        f"{100 * off.max() / off.sum():.1f} % of all wrong pixels."
    )
    perfect = {**result, "confusion_matrix": np.diag(matrix.diagonal()).tolist()}
    assert any("Not one" in f for f in findings(ReportData("a", SPACE, perfect)))


def test_the_worst_lead_and_no_more_are_shown_than_allowed(tmp_path: Path) -> None:
    pictures = shown()
    result, images = evaluation(pictures)
    seen: list[str] = []

    def show(entry):  # type: ignore[no-untyped-def]
        seen.append(entry["id"])
        return pictures[entry["id"]]

    write = report_evaluation(tmp_path, result, images, SPACE, show, most=3)
    order = sorted(images, key=lambda e: e["miou"])
    assert seen == [e["id"] for e in order[:3]]
    figures = re.findall(r"<figcaption>\d\. <b>(.*?)</b>", write.read_text(encoding="utf-8"))
    assert len(figures) == 3 and "script" in figures[0]
    assert f"<b>{order[1]['id']}</b>" in f"<b>{figures[1]}</b>"
    seen.clear()
    report_evaluation(tmp_path, result, images, SPACE, show, title="x")
    # The first image is right everywhere and has nothing to show.
    assert sorted(seen) == sorted(e["id"] for e in images if e["miou"] < 1)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result, _ = evaluation(shown())
    with pytest.raises(OutputError):
        report_evaluation(tmp_path / "file", result, [], SPACE, lambda _: pytest.fail())


def decode(uri: str) -> np.ndarray:
    kind, data = uri.split(";base64,")
    assert kind in ("data:image/jpeg", "data:image/webp")
    found = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    return found[:, :, [2, 1, 0, 3][: found.shape[2]]]


def test_layers_show_classes_exactly_and_nothing_where_ignored() -> None:
    image, truth, prediction = shown()[HOSTILE]
    found = picture("x", image, truth, prediction, SPACE)
    layer, said, errors = decode(found.truth), decode(found.prediction), decode(found.errors)
    valid = truth != 255
    assert (layer[..., 3] == np.where(valid, 255, 0)).all()
    assert (layer[valid][:, :3] == SPACE.palette()[truth[valid]]).all()
    assert (said[..., :3] == SPACE.palette()[prediction]).all()
    wrong = valid & (truth != prediction)
    red = (errors[..., :3] == (240, 72, 62)).all(-1)
    assert (red == wrong).all()
    assert decode(found.photo).shape == image.shape


def test_a_large_picture_is_shrunk_and_its_classes_are_not_mixed() -> None:
    truth = np.kron(np.array([[0, 3], [2, 1]], np.uint8), np.ones((500, 601), np.uint8))
    found = picture("x", np.zeros((*truth.shape, 3), np.uint8), truth, truth, SPACE)
    assert found.size == (799, 960)
    colors = decode(found.prediction)[::3, ::3, :3].astype(int) @ (1 << 16, 1 << 8, 1)
    assert set(colors.ravel()) == set(SPACE.palette()[:4].astype(int) @ (1 << 16, 1 << 8, 1))


def test_a_class_thumb_counts_its_class() -> None:
    image, truth, prediction = shown()[HOSTILE]
    crop = class_thumb("x", image, truth, prediction, 2, 255)
    true, said = truth == 2, (prediction == 2) & (truth != 255)
    assert crop.iou == pytest.approx((true & said).sum() / (true | said).sum())
    assert crop.pixels == (true ^ said).sum()
    assert class_thumb("x", image, truth, prediction, 4, 255).iou is None


def test_a_crop_holds_the_largest_region() -> None:
    image = np.full((200, 300, 3), 200, np.uint8)
    mask = np.zeros((200, 300), np.uint8)
    mask[10:14, 10:14] = 255
    mask[150:190, 240:290] = 255
    image[mask > 0] = (0, 255, 0)
    crop = confusion_crop("x", image, mask)
    assert crop is not None and crop.pixels == 2016
    seen = decode(crop.uri).astype(int)
    green = (seen[..., 1] > 200) & (seen[..., 0] < 90)
    # 40×50 pixels in a window of 1.7×50 = 85 pixels.
    assert green.mean() == pytest.approx(2000 / 85**2, rel=0.1)
    assert confusion_crop("x", image, np.zeros_like(mask)) is None
    thin = confusion_crop("x", np.full((9, 1, 3), 9, np.uint8), np.full((9, 1), 255, np.uint8))
    assert thin is not None


def test_a_jpeg_keeps_its_colours() -> None:
    image = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    assert np.abs(decode(jpeg(image)).astype(int) - image).max() < 6


@pytest.mark.parametrize("values", [[], [None], [0.0, 0.0], [0.5, None, 1.0], [1e-9, 0.3]])
def test_charts_of_little_data(values: list[float | None]) -> None:
    names = [f"<{i}" for i in range(len(values))]
    drawn = [
        charts.columns_chart("c", names, values, x_title="x", dots=values),
        charts.curve("c", names, values, top=100),
        charts.dot_plot("d", [(n, v, "") for n, v in zip(names, values, strict=True)], None),
        charts.reliability("r", [(0.0, 0.5, None, None), (0.5, 1.0, 0.7, 0.7)]),
    ]
    for drawing in drawn:
        for tag, attributes in Checked(drawing).tags:
            for name in ("x", "y", "width", "height", "cx", "cy"):
                value = attributes.get(name)
                assert value is None or (np.isfinite(float(value)) and float(value) >= -1), tag


def test_columns_are_as_high_as_their_values() -> None:
    drawing = Checked(charts.columns_chart("c", ["a", "b"], [0.2, 0.4], x_title="x"))
    a, b = (float(str(r["height"])) for r in drawing.all("rect"))
    assert b == pytest.approx(2 * a, rel=0.01)
    tips = [w for w in drawing.words if w.startswith(("a:", "b:"))]
    assert tips == ["a: 20 %", "b: 40 %"]
