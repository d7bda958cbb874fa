"""The stress audit: shares kept, the same weather for everyone, the warning about training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
from tiny_run import SPACE, RedDecides, make_prepared, one_thread  # noqa: F401

from segcli.config import PRESETS, Config
from segcli.data import stress, weather
from segcli.data.images import read_image, read_label
from segcli.data.manifest import Sample
from segcli.errors import UsageError
from segcli.inference.predictor import Predictor
from segcli.recipes.stress import _EXTRA, _WEATHER, kinds_trained_on, stress_audit
from segcli.reporting.events import NullReporter


class Listener(NullReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.tables: list[tuple[str, Any, Any]] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def table(self, title: str, columns: Any, rows: Any) -> None:
        self.tables.append((title, columns, rows))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    return make_prepared(tmp_path_factory.mktemp("stress"), count=4).split("val")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(RedDecides(), SPACE)


@pytest.fixture(scope="module")
def audit(predictor: Predictor, samples: tuple[Sample, ...]) -> dict[str, Any]:
    return stress_audit(predictor, samples, seed=5)


def test_all_conditions_with_the_share_of_the_clean_score(audit: dict[str, Any]) -> None:
    assert audit["clean"]["miou"] == 1.0
    assert set(audit["kinds"]) == set(stress.STRESSES)
    found = []
    for by in audit["kinds"].values():
        assert list(by) == ["1", "2", "3"]
        for entry in by.values():
            assert entry["kept"] == pytest.approx(entry["miou"])
            ious = [c["iou"] for c in entry["classes"].values()]
            assert entry["miou"] == pytest.approx(np.mean(ious))
            assert all(0 <= c["kept"] <= 1 for c in entry["classes"].values())
            found.append(entry["miou"])
    assert audit["mean"]["miou"] == pytest.approx(np.mean(found))
    assert audit["kinds"]["fog"]["3"]["kept"] < audit["kinds"]["fog"]["1"]["kept"] < 1
    assert json.loads(json.dumps(audit, allow_nan=False)) == audit


def test_one_condition_counted_by_hand(
    predictor: Predictor, samples: tuple[Sample, ...], audit: dict[str, Any]
) -> None:
    """Without the audit's batches and threads: IoU of a class from its definition."""
    import zlib

    hits = union = 0
    for sample in samples:
        seeds = [5, zlib.crc32(sample.id.encode()), zlib.crc32(b"noise"), 3]
        view = stress.noise(read_image(sample.image), 3, np.random.default_rng(seeds))
        truth, said = read_label(sample.label, label_space=SPACE), predictor.predict(view)
        valid = truth != 255
        hits += int(((truth == 1) & (said == 1)).sum())
        union += int((((truth == 1) | (said == 1)) & valid).sum())
    assert audit["kinds"]["noise"]["3"]["classes"]["kerb"]["iou"] == pytest.approx(hits / union)


def test_the_weather_of_an_image_does_not_depend_on_the_others(
    predictor: Predictor, samples: tuple[Sample, ...]
) -> None:
    def score(chosen: tuple[Sample, ...], **options: Any) -> Any:
        return stress_audit(predictor, chosen, kinds=["rain", "noise"], severities=[2], **options)[
            "kinds"
        ]

    alone = [score((s,)) for s in samples[1:3]]
    # One image in company of itself has the scores that it has alone.
    assert score((samples[1], samples[1])) == alone[0]
    assert score((samples[2], samples[2]), batch_size=1) == alone[1]
    assert score((samples[1],), seed=1) != alone[0]


def test_absent_and_failed_classes_have_no_share(samples: tuple[Sample, ...]) -> None:
    class Nothing(RedDecides):
        def forward(self, images: Any) -> Any:
            logits = super().forward(images)
            logits[:, 3] = -1e6  # never says sky
            return logits

    found = stress_audit(Predictor(Nothing(), SPACE), samples, kinds=["blur"], severities=[1])
    assert found["clean"]["classes"]["sky"]["iou"] == 0
    assert found["kinds"]["blur"]["1"]["classes"]["sky"]["kept"] is None


@pytest.mark.parametrize("wrong", [{"kinds": ["hail"]}, {"severities": [4]}])
def test_unknown_conditions(
    predictor: Predictor, samples: tuple[Sample, ...], wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"hail|severity 4"):
        stress_audit(predictor, samples, **wrong)


def training(**augment: Any) -> dict[str, Any]:
    return Config.model_validate({"train": {"augment": augment}}).to_dict()


def test_training_in_weather_is_found() -> None:
    assert kinds_trained_on({}) == {}
    assert kinds_trained_on(training(preset="base")) == {}
    assert set(kinds_trained_on(training(preset="weather"))) == set(stress.STRESSES) - {"noise"}
    assert kinds_trained_on(training(preset="weather", weather_share=0.0)) == {}
    extra = training(extra=[{"name": "GaussNoise", "p": 0.2}, {"name": "MotionBlur"}])
    assert kinds_trained_on(extra) == {
        "blur": "train.augment.extra: MotionBlur",
        "noise": "train.augment.extra: GaussNoise",
    }
    off = {"train": {"stages": [{"augment": 0}], "augment": dict(PRESETS["weather"])}}
    assert kinds_trained_on(off) == {}


def test_the_names_are_those_of_training() -> None:
    assert set(_WEATHER) == set(weather.pipelines(1.0, 100))
    for kind, names in _EXTRA.items():
        assert kind in stress.STRESSES
        assert all(hasattr(albumentations, name) for name in names)


def test_the_warning_and_the_table(predictor: Predictor, samples: tuple[Sample, ...]) -> None:
    listener = Listener()
    options: dict[str, Any] = {"kinds": ["fog", "noise"], "severities": [1, 3]}
    found = stress_audit(
        predictor,
        samples[:1],
        reporter=listener,
        training=training(preset="weather"),
        **options,
    )
    assert len(listener.warnings) == 1
    assert "fog" in listener.warnings[0] and "noise" not in listener.warnings[0]
    assert found["trained_on"] == {"fog": "train.augment.weather"}
    assert len(listener.tables) == 1
    title, columns, rows = listener.tables[0]
    assert "* a kind" in title
    assert columns == ["stress", "severity 1", "severity 3", "worst class"]
    assert [row[0] for row in rows] == ["fog *", "noise"]
    assert rows[0][1] == f"{100 * found['kinds']['fog']['1']['kept']:.1f}"
    quiet = Listener()
    stress_audit(predictor, samples[:1], reporter=quiet, training=training(), **options)
    assert not quiet.warnings


def test_no_stress_shares_an_operator_with_training(tmp_path: Path) -> None:
    """The two files know nothing of each other, which the warning's words rest on."""
    for module, other in ((stress, "weather"), (weather, "stress")):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        assert f"import {other}" not in text and f"from segcli.data.{other}" not in text
