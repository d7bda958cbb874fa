"""`segcli compare`: what is compared with what, what is refused, what is said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from tiny_run import SPACE, make_prepared, make_run, one_thread  # noqa: F401
from typer import Typer
from typer.testing import CliRunner

from segcli.checkpoint import DESCRIPTION, load_checkpoint
from segcli.commands.compare import compare as command
from segcli.errors import DataError, LabelSpaceError, SegcliError, UsageError
from segcli.metrics.confusion import scores
from segcli.recipes.compare import compare
from segcli.recipes.compare_cost import _arithmetic, training_curve
from segcli.reporting.comparison import sparkline

NAMES = SPACE.class_names


def matrices(skill: float, *, count: int = 40, seed: int = 0, truth: int = 0) -> np.ndarray:
    """int64 (N, 4, 4): `skill` of each class's pixels right, harder images worse."""
    pixels = np.random.default_rng(truth).integers(100, 900, (count, 4))
    g = np.random.default_rng(seed)
    right = np.clip(skill + g.normal(0, 0.03, (count, 4)), 0, 1)
    hits = np.round(pixels * right).astype(np.int64)
    result = np.zeros((count, 4, 4), np.int64)
    for k in range(4):
        result[:, k, k] = hits[:, k]
        result[:, k, (k + 1) % 4] = pixels[:, k] - hits[:, k]
    return result


def write_evaluation(folder, tables, *, names=NAMES, ids=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    ids = ids or [f"s{i}" for i in range(len(tables))]
    rows = [
        {
            "id": name,
            "split": "val",
            "counts": [[*map(int, ij), int(t[tuple(ij)])] for ij in np.argwhere(t)],
        }
        for name, t in zip(ids, tables, strict=True)
    ]
    found = scores(tables.sum(0), SPACE).to_dict()
    found["classes"] = dict(zip(names, found["classes"].values(), strict=True))
    (folder / "images.json").write_text(json.dumps(rows))
    (folder / "scores.json").write_text(json.dumps({"label_space": "tiny", **found, **more}))
    return folder


def make_evaluated(run, tables, *, seed=0, lr=0.1, split="val", weights=False, **more):
    """A run with a log, an evaluation, and a checkpoint that says how it was trained."""
    training = {"data": {"prepared": "x", "workers": seed}, "train": {"seed": seed, "lr": lr}}
    if weights:
        make_run(run, run.parent / "prepared")
    else:
        (run / "best").mkdir(parents=True, exist_ok=True)
        (run / "best" / DESCRIPTION).write_text(json.dumps({"training": training}))
    lines = [("loss/total", s, 3 / s) for s in range(1, 9)] + [("val/miou", 4, 0.3)]
    lines += [("val/miou", 8, 0.5), ("speed/seconds_per_step", 8, 2.0)]
    (run / "log.jsonl").write_text(
        "".join(
            json.dumps({"time": 0, "event": "scalar", "name": n, "value": v, "step": s}) + "\n"
            for n, s, v in lines
        )
    )
    return write_evaluation(run / "eval" / split, tables, checkpoint=str(run / "best"), **more)


@pytest.fixture
def two(tmp_path):
    a = write_evaluation(tmp_path / "a", matrices(0.8, seed=1))
    b = write_evaluation(tmp_path / "b", matrices(0.9, seed=2))
    return a, b


def run(*paths, **options):
    return compare(paths, **{"draws": 500, "speed": False, **options})


def test_scores_and_the_sign_of_the_difference(two):
    result = run(*two)
    stored = [json.loads((p / "scores.json").read_text())["miou"] for p in two]
    assert [arm["miou"]["value"] for arm in result["arms"]] == pytest.approx(stored, abs=1e-15)
    entry = result["differences"][0]
    assert (entry["against"], entry["arm"]) == ("a", "b")
    assert entry["miou"]["delta"]["value"] == pytest.approx(stored[1] - stored[0], abs=1e-15)
    assert entry["miou"]["verdict"] == "better" and entry["covers"] == "images"
    assert {e["verdict"] for e in entry["classes"].values()} == {"better"}
    assert run(two[1], two[0])["differences"][0]["miou"]["verdict"] == "worse"


def test_noise_is_not_called_a_difference(tmp_path):
    a = write_evaluation(tmp_path / "a", matrices(0.8, seed=1))
    b = write_evaluation(tmp_path / "b", matrices(0.8, seed=5))
    output = invoke(str(a), str(b), "--out", str(tmp_path / "out"))
    assert "b and a are not distinguishable" in output.stdout


def test_a_run_and_itself_differ_by_exactly_nothing(two, tmp_path):
    entry = run(two[0], two[0])["differences"][0]
    assert entry["identical"] and entry["arm"] == "a (2)"
    for found in (entry["miou"], *entry["classes"].values()):
        assert found["delta"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "identical" in invoke(str(two[0]), str(two[0]), "--out", str(tmp_path / "o")).stdout


def test_the_order_of_the_images_does_not_matter(two, tmp_path):
    order = np.random.default_rng(0).permutation(40)
    shuffled = write_evaluation(
        tmp_path / "c", matrices(0.9, seed=2)[order], ids=[f"s{i}" for i in order]
    )
    straight = run(*two)["differences"][0]["miou"]
    assert run(two[0], shuffled)["differences"][0]["miou"] == straight


def test_other_images_are_refused_or_left_out(two, tmp_path):
    few = write_evaluation(tmp_path / "few", matrices(0.9, seed=2)[:25])
    with pytest.raises(DataError, match=r"'a' was scored on 40 images and 'few' on 25, 25.*--com"):
        run(two[0], few)
    result = run(two[0], few, common=True)
    assert result["images"] == 25
    other = write_evaluation(tmp_path / "o", matrices(0.9), ids=[f"x{i}" for i in range(40)])
    with pytest.raises(DataError, match=r"0 of them in common.*same split"):
        run(two[0], other, common=True)


def test_other_labels_of_the_same_images_are_refused(two, tmp_path):
    relabelled = write_evaluation(tmp_path / "r", matrices(0.9, truth=7))
    with pytest.raises(DataError, match=r"different labels, as of val/s0"):
        run(two[0], relabelled)


def test_other_classes_are_refused(two, tmp_path):
    renamed = write_evaluation(tmp_path / "r", matrices(0.9), names=(*NAMES[:3], "clouds"))
    with pytest.raises(LabelSpaceError, match="class 3 is 'sky' and 'clouds'"):
        run(two[0], renamed)


def test_what_is_no_evaluation(two, tmp_path):
    make_run(tmp_path / "bare", tmp_path)
    with pytest.raises(DataError, match=r"no scores per image.*segcli eval .*bare makes them"):
        run(two[0], tmp_path / "bare")
    with pytest.raises(SegcliError, match="no such run"):
        run(two[0], tmp_path / "nothing")
    with pytest.raises(UsageError, match="at least two"):
        run(two[0])
    for text in ("[]", "{}", '[{"id": "a"}]', '[{"id": 1, "counts": [[0, 9, 1]]}]', "[1]"):
        (two[1] / "images.json").write_text(text)
        with pytest.raises(DataError, match=r"images\.json"):
            run(*two)


def test_seeds_of_one_recipe_are_an_arm(tmp_path):
    for name, skill, lr, seeds in (("base", 0.8, 0.1, (0, 1, 2)), ("new", 0.82, 0.2, (0, 1))):
        for seed in seeds:
            tables = matrices(skill + 0.01 * seed, seed=seed + int(100 * lr))
            make_evaluated(tmp_path / f"{name}-s{seed}", tables, seed=seed, lr=lr)
    paths = [tmp_path / n for n in ("base-s0", "base-s1", "new-s0", "base-s2", "new-s1")]
    result = run(*paths)
    assert [(a["name"], len(a["runs"])) for a in result["arms"]] == [("base", 3), ("new", 2)]
    entry = result["differences"][0]
    assert entry["covers"] == "images and seeds" and not entry["same_recipe"]
    delta, images, seeds = (entry["miou"][k] for k in ("delta", "over_images", "over_seeds"))
    width = [i["high"] - i["low"] for i in (images, seeds, delta)]
    assert width[0] < width[2] and width[1] <= width[2]
    means = [a["miou"]["value"] for a in result["arms"]]
    assert delta["value"] == pytest.approx(means[1] - means[0])

    single = run(*paths, group=False)
    assert len(single["arms"]) == 5
    alone = run(*paths[:2])
    assert len(alone["arms"]) == 2, "two seeds of one recipe are compared with each other"
    assert alone["differences"][0]["same_recipe"]
    by_name = compare(paths[:1], arms=[("mine", paths[1:3])], draws=200, speed=False)
    assert [(a["name"], len(a["runs"])) for a in by_name["arms"]] == [("base-s0", 1), ("mine", 2)]
    assert by_name["differences"][0]["covers"] == "images"
    with pytest.raises(UsageError, match="twice in arm 'x'"):
        compare(paths[:1], arms=[("x", [paths[1], paths[1]])], draws=200, speed=False)


def test_which_evaluation_is_meant(tmp_path):
    for name in ("a", "b"):
        make_evaluated(tmp_path / name, matrices(0.8, seed=ord(name)), lr=ord(name))
        make_evaluated(tmp_path / name, matrices(0.5, seed=ord(name)), lr=ord(name), split="test")
    a, b = tmp_path / "a", tmp_path / "b"
    assert run(a, b)["arms"][0]["runs"][0]["evaluation"] == str(a / "eval" / "val")
    assert run(a, b, evaluation="test")["arms"][1]["miou"]["value"] < 0.5
    assert run(a / "eval" / "test", b / "eval" / "test" / "images.json")["images"] == 40
    with pytest.raises(DataError, match=r"no evaluation 'train'.*test, val"):
        run(a, b, evaluation="train")
    shutil.rmtree(a / "eval" / "val")
    assert run(a, b)["arms"][0]["runs"][0]["evaluation"].endswith("test")
    shutil.rmtree(b / "eval" / "test")
    with pytest.raises(UsageError, match="different splits"):
        run(a, b)


def test_cost_and_curves(tmp_path):
    data = make_prepared(tmp_path, 1)
    for name in ("a", "b"):
        more = {"weights": True, "prepared": str(data.folder)}
        make_evaluated(tmp_path / name, matrices(0.8), **more)
    result = run(tmp_path / "a", tmp_path / "b", speed=True, device="cpu")
    cost = result["arms"][0]["cost"]
    model = sum(t.numel() for n, t in load_checkpoint(tmp_path / "a/best").state_dict.items()
                if not re.search(r"running_|num_batches|mean$|std$", n))  # fmt: skip
    assert tuple(cost["size"]) == data.split("val")[0].size
    assert cost["parameters"] == model and cost["seconds"] > 0
    assert cost["flops"] == 2 * cost["multiply_adds"] and cost["device"] == "cpu"
    curve = result["arms"][1]["curves"][0]
    assert curve["miou"] == ((4, 0.3), (8, 0.5)) and len(curve["loss"]) == 8
    assert (curve["steps"], curve["seconds"]) == (8, 2.0)
    (tmp_path / "a" / "best" / DESCRIPTION).write_text("{")
    assert run(tmp_path / "a" / "eval" / "val", tmp_path / "b")["arms"][0]["cost"] is None


def test_shapes_alone_count_the_same_arithmetic(tmp_path):
    from segcli.models.build import build_model
    from segcli.models.summary import model_summary

    make_run(tmp_path / "a", tmp_path)
    config = load_checkpoint(tmp_path / "a" / "best").model_config
    real = model_summary(build_model(**config), [(40, 56)])
    counted = _arithmetic(tmp_path / "a" / "best", (40, 56))
    assert (counted.flops, counted.parameters) == (real.costs[0].flops, real.parameters)


def test_a_log_with_repeated_and_torn_lines(tmp_path):
    log = tmp_path / "log.jsonl"
    event = '{"event": "scalar", "name": "loss/total", "step": %d, "value": %s}\n'
    text = event % (1, "5") + event % (2, "4") + event % (2, "3") + event % (3, "null")
    log.write_text(text + '{"event": "scal' + "\n[1]\n" + "null\n")
    curve = training_curve(log)
    assert curve is not None and curve.loss == ((1, 5.0), (2, 3.0)) and curve.steps == 2
    log.write_text("")
    assert training_curve(log) is None and training_curve(tmp_path / "none") is None
    log.write_text("".join(event % (s, s) for s in range(1, 1001)))
    curve = training_curve(log)
    assert curve is not None and len(curve.loss) == 100 and curve.loss[0] == (10, 5.5)


def test_sparkline():
    assert sparkline([0, 0.5, 1]) == "▁▄█" and sparkline([1]) == "-" and sparkline([2, 2]) == "▁▁"
    assert len(sparkline(list(range(500)))) == 24


def application() -> Typer:
    app = Typer()
    app.command()(command)
    return app


def invoke(*arguments: str):
    result = CliRunner().invoke(application(), [*arguments, "--no-speed", "--draws", "300"])
    assert result.exit_code == 0, (result.exception, result.stderr)
    return result


def test_json_on_stdout_is_all_there_is(two, tmp_path):
    result = invoke(*map(str, two), "--json", "--out", str(tmp_path / "out"))
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert "better than a" in result.stderr and "NaN" not in result.stdout


def test_rare_classes_get_no_verdict(tmp_path):
    paths = []
    for name, skill in (("a", 0.7), ("b", 0.95)):
        tables = matrices(skill, seed=ord(name))
        tables[4:, 3] = 0
        paths.append(write_evaluation(tmp_path / name, tables))
    found = run(*paths)["differences"][0]["classes"]["sky"]
    assert (found["images"], found["verdict"]) == (4, "too few images")


HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>'


def hostile_page(tmp_path):
    names = (HOSTILE, *NAMES[1:])
    paths = []
    for name, skill in (("<b>a&b", 0.8), ("b'", 0.9)):
        path = tmp_path / name
        paths.append(write_evaluation(path, matrices(skill), names=names, label_space=HOSTILE))
    out = tmp_path / "out"
    run(*paths, out=out)
    return out / "index.html"


def test_the_page_is_one_file_and_names_stay_text(tmp_path):
    page = hostile_page(tmp_path).read_text(encoding="utf-8")
    assert "default-src &#x27;none&#x27;" in page and "Content-Security-Policy" in page
    assert HOSTILE not in page and "&lt;script&gt;document" in page
    assert page.count("<script>") == 1
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "http://" not in page and "https://" not in page
    assert "&lt;b&gt;a&amp;b" in page and 'style="' not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_shows_it_without_an_error(tmp_path):
    page = hostile_page(tmp_path)
    shown = subprocess.run(
        [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert "points of mIoU" in shown.stdout.replace("\N{NO-BREAK SPACE}", " ")
    assert "<title>owned" not in shown.stdout and "<img" not in shown.stdout
    # The script has run: the first section is marked in the navigation.
    assert "aria-current" in shown.stdout
