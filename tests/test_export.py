"""Exported files: the same answers as torch, the whole description inside, and clear refusals."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from segcli import exported
from segcli.checkpoint import build_from_checkpoint, load_checkpoint
from segcli.commands.app import main
from segcli.errors import CheckpointError, UsageError
from segcli.exported import ExtraMissingError, import_extra, read_description
from segcli.inference.backends import OpenVinoBackend, open_backend
from segcli.inference.predictor import Predictor
from segcli.recipes.export import _building, export_run
from segcli.recipes.export_graph import TARGETS, ExportError
from segcli.recipes.export_parity import Limits
from segcli.recipes.export_report import ExportResult
from segcli.recipes.export_rounding import round_kernels, to_bfloat16
from segcli.runs import find_checkpoint, run_folder
from segcli.temperature import store_temperature
from tests.tiny_run import SPACE, blocks, make_prepared, make_run, one_thread

__all__ = ["one_thread"]

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
LIBRARIES = ("onnx", "onnxruntime", "openvino", "nncf")
for library in LIBRARIES:
    pytest.importorskip(library, reason="the extra is not installed: pip install 'segcli[export]'")

# An untrained network is unsure everywhere; only fp32 has to agree.
LENIENT = Limits(agreement=0.0, loss=1.0)
FLOAT32 = ("onnx-fp32", "openvino-fp32")


class World(NamedTuple):
    checkpoint: Path
    prepared: Path
    result: ExportResult

    def file(self, target: str) -> Path:
        path = next(e.path for e in self.result.exports if e.target == target)
        assert path is not None
        return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny checkpoint, exported to everything."""
    folder = tmp_path_factory.mktemp("export")
    prepared = make_prepared(folder).folder
    checkpoint = make_run(folder / "run", prepared)
    store_temperature(checkpoint, 1.5, {})
    result = export_run(checkpoint, targets=tuple(TARGETS), calibration=3, limit=3, limits=LENIENT)
    return World(checkpoint, prepared, result)


def test_everything_lies_where_it_says(world: World) -> None:
    folder = world.checkpoint.parent / "export"
    assert sorted(p.name for p in folder.iterdir()) == sorted(TARGETS)
    for target in TARGETS:
        assert world.file(target).parent == folder / target
        assert (folder / target / "export.json").is_file()


@pytest.mark.parametrize("target", FLOAT32)
@pytest.mark.parametrize("size", [(64, 96), (33, 95), (1, 1), (48, 130)])
def test_logits_are_torchs_at_any_size(world: World, target: str, size: tuple[int, int]) -> None:
    model = build_from_checkpoint(load_checkpoint(world.checkpoint))
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = model.logits_at_stride(images).logits
    backend = open_backend(world.file(target), threads=1)
    given = backend(images.contiguous(memory_format=torch.channels_last))
    assert given.shape == wanted.shape and given.dtype == torch.float32
    assert float((given - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()) + 1e-6


@pytest.mark.parametrize("target", TARGETS)
def test_logits_are_near_in_every_precision(world: World, target: str) -> None:
    model = build_from_checkpoint(load_checkpoint(world.checkpoint))
    images = torch.from_numpy(blocks(3)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        wanted = model.logits_at_stride(images).logits
    given = open_backend(world.file(target), threads=1)(images)
    allowed = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.08, "int8": 0.6}[TARGETS[target].precision]
    assert float((given - wanted).abs().max()) <= allowed * float(wanted.abs().max())


def test_int8_is_int8(world: World) -> None:
    """Most of the weights are stored in 8 bits, and the graph quantises activations too."""
    size = [
        world.file(target).with_suffix(".bin").stat().st_size
        for target in ("openvino-int8", "openvino-fp32")
    ]
    assert size[0] < 0.45 * size[1]
    assert "FakeQuantize" in world.file("openvino-int8").read_text()
    assert "FakeQuantize" not in world.file("openvino-bf16").read_text()
    graph = import_extra("onnx").load(world.file("onnx-int8")).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 20


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_describes_itself(world: World, target: str) -> None:
    said = read_description(world.file(target))
    model = build_from_checkpoint(load_checkpoint(world.checkpoint))
    assert said["palette"] == [list(c.color) for c in SPACE.classes]
    assert said["classes"] == list(SPACE.class_names)
    assert said["mean"] == model.mean.flatten().tolist()
    assert (said["target"], said["multiple"], said["stride"]) == (target, 32, 4)
    checkpoint = load_checkpoint(world.file(target))
    assert checkpoint.label_space == SPACE
    assert checkpoint.step == 7 and checkpoint.state_dict == {}
    assert Predictor.of_checkpoint(checkpoint).temperature == 1.5
    with pytest.raises(CheckpointError, match="cannot be built again"):
        build_from_checkpoint(checkpoint)


def test_a_file_moved_away_alone_is_enough(world: World, tmp_path: Path) -> None:
    moved = tmp_path / "net.onnx"
    moved.write_bytes(world.file("onnx-fp32").read_bytes())
    image = blocks(1)
    wanted = Predictor.from_checkpoint(world.checkpoint, device="cpu").predict(image)
    assert (Predictor.from_checkpoint(moved).predict(image) == wanted).mean() > 0.999


def test_openvino_runs_the_onnx_file_as_well(world: World) -> None:
    path = world.file("onnx-fp32")
    image = torch.from_numpy(blocks(2)).permute(2, 0, 1)[None]
    given = OpenVinoBackend(path, read_description(path), threads=1)(image)
    assert torch.allclose(given, open_backend(path, threads=1)(image), atol=1e-5)


def test_files_and_folders_are_found(world: World) -> None:
    path = world.file("openvino-bf16")
    assert find_checkpoint(path) == find_checkpoint(path.parent) == path
    assert run_folder(path) == path.parent
    assert find_checkpoint(world.checkpoint.parent) == world.checkpoint


@pytest.mark.parametrize("target", FLOAT32)
def test_predict_and_eval_take_the_file(
    world: World, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segcli.recipes.evaluate_run import evaluate_run

    path, image = world.file(target), world.prepared.parent / "raw" / "1.png"
    main_(["predict", str(image), "--checkpoint", str(path), "--out", str(tmp_path / "a")])
    main_(["predict", str(image), "--checkpoint", str(world.checkpoint), "--out", f"{tmp_path}/b"])
    masks = [cv2.imread(str(tmp_path / name / "masks" / "1.png"), -1) for name in "ab"]
    assert (masks[0] == masks[1]).mean() > 0.999
    mine, _ = evaluate_run(path, out=tmp_path / "mine", limit=2)
    torchs, _ = evaluate_run(world.checkpoint, out=tmp_path / "torchs", limit=2)
    assert mine["miou"] == pytest.approx(torchs["miou"], abs=2e-3)
    assert mine["precision"] == "fp32"


def main_(arguments: list[str]) -> int:
    """The exit code of the command line."""
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_parity_says_what_was_lost(world: World) -> None:
    by_name = {e.target: e.parity for e in world.result.exports}
    for target in FLOAT32:
        assert by_name[target].agreement >= 0.999
        assert by_name[target].largest_difference < 1e-4
        assert by_name[target].miou_after == pytest.approx(by_name[target].miou_before, abs=2e-3)
    assert by_name["openvino-int8"].largest_difference > by_name["openvino-fp32"].largest_difference


def test_an_export_beyond_the_limit_is_not_kept(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    arguments = ["export", str(world.checkpoint), "--out", str(out), "--limit", "1"]
    good = [*arguments, "--to", "onnx-fp32"]
    assert main_(good) == 0
    before = (out / "onnx-fp32" / "model.onnx").stat().st_mtime_ns
    # More than a class map of 1 point can gain: nothing passes, not even the same network.
    result = export_run(
        world.checkpoint,
        targets=["onnx-fp32"],
        out=out,
        limit=1,
        limits=Limits(agreement=1.5),
    )
    assert result.exports[0].path is None and "keep their class" in result.exports[0].parity.failure
    assert (out / "onnx-fp32" / "model.onnx").stat().st_mtime_ns == before
    assert [p.name for p in out.iterdir()] == ["onnx-fp32"]


def test_the_command_fails_in_one_line(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network that answers otherwise than its checkpoint: exit code 1, one line, no file."""
    real = Predictor.from_checkpoint

    def shifted(path: Any, **options: Any) -> Predictor:
        predictor = real(path, **options)
        backend = predictor.backend

        class Wrong:
            device, precision, multiple = backend.device, backend.precision, backend.multiple
            pixel_bytes = backend.pixel_bytes

            def __call__(self, batch: torch.Tensor) -> torch.Tensor:
                return backend(batch).roll(1, 1)

        return predictor.with_backend(Wrong())

    monkeypatch.setattr(Predictor, "from_checkpoint", shifted)
    out = tmp_path / "export"
    code = main_(["export", str(world.checkpoint), "--out", str(out), "--to", "openvino-fp32"])
    error = capsys.readouterr().err
    assert code == 1 and "openvino-fp32" in error and "were not kept" in error
    assert "Traceback" not in error and not list(out.iterdir())


def test_a_failure_while_writing_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segcli.recipes.export.write_target", full)
    with pytest.raises(ExportError, match="No space left"):
        export_run(world.checkpoint, targets=["openvino-fp32"], out=tmp_path, limit=1)
    assert not list(tmp_path.iterdir())


def test_two_exports_into_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    dead = tmp_path / ".export.tmp-999999999"
    at_it = tmp_path / f".export.tmp-{os.getppid()}"
    for folder in (dead, at_it):
        folder.mkdir()
    with _building(tmp_path):
        assert not dead.exists() and at_it.exists()


def test_fixed_size(world: World, tmp_path: Path) -> None:
    result = export_run(
        world.checkpoint,
        targets=["onnx-fp32", "openvino-fp32"],
        size=(32, 64),
        out=tmp_path,
        limit=2,
        limits=Limits(loss=1.0),
    )
    torchs = Predictor.from_checkpoint(world.checkpoint, device="cpu")
    sized = Predictor(torchs.backend, SPACE, size=(32, 64))
    for export in result.exports:
        assert export.path is not None and not export.parity.failure
        predictor = Predictor.from_checkpoint(export.path)
        # Pictures of any size are resized to the one that the graph takes.
        image = blocks(4, 48, 80)
        assert (predictor.predict(image) == sized.predict(image)).mean() > 0.999
        with pytest.raises(UsageError, match="32x64 alone"):
            predictor.backend(torch.zeros((1, 3, 64, 64), dtype=torch.uint8))


def test_what_cannot_be_asked(world: World) -> None:
    path = world.file("openvino-bf16")
    with pytest.raises(UsageError, match="exported in bf16"):
        open_backend(path, precision="fp32")
    with pytest.raises(UsageError):
        open_backend(path, device="cuda:99")
    with pytest.raises(UsageError, match="not a checkpoint"):
        export_run(path)
    with pytest.raises(UsageError, match="onnx-bf16"):
        export_run(world.checkpoint, targets=["onnx-bf16"])
    assert main_(["export", str(world.checkpoint), "--size", "big"]) == 2


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_flipped_bit_is_found(world: World, tmp_path: Path, name: str) -> None:
    source = world.file("openvino-bf16").parent
    for file in source.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path / name)
    with pytest.raises(CheckpointError, match="SHA-256"):
        Predictor.from_checkpoint(tmp_path / "model.xml")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.onnx", b"\x00\xffnot protobuf"),
        ("model.onnx", b""),
        ("model.xml", b"<a/>"),
        ("model.xml", b'<?xml version="1.0"?>\n<net name="a" version="11">'),
        ("model.xml", b""),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Predictor.from_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_network_of_another_program_is_refused(world: World, tmp_path: Path) -> None:
    onnx = import_extra("onnx")
    model = onnx.load(world.file("onnx-fp32"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="not written by segcli export"):
        load_checkpoint(tmp_path / "foreign.onnx")
    exported.write_metadata(model, {"format": 99})
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(CheckpointError, match="update segcli"):
        load_checkpoint(tmp_path / "newer.onnx")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_extra_is_one_line_before_any_work(
    world: World, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'segcli\[export\]'"):
        export_run(world.checkpoint, targets=tuple(TARGETS), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nobody_is_told_that_openvino_was_imported() -> None:
    import_extra("openvino")
    import_extra("nncf")
    assert sys.modules["openvino_telemetry"] is None


def test_bfloat16_is_torchs() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 3
    assert np.array_equal(to_bfloat16(values.numpy()), values.bfloat16().float().numpy())


def test_rounded_kernels_keep_their_sums() -> None:
    random = np.random.default_rng(0)
    kernels = random.normal(size=(500, 1, 3, 3)).astype(np.float32)
    kernels -= kernels.mean((2, 3), keepdims=True)  # differences: a flat area answers 0
    plain, kept = to_bfloat16(kernels), round_kernels(kernels)
    assert np.array_equal(to_bfloat16(kept), kept)
    leak = [float(np.abs(k.sum((2, 3), dtype=np.float64)).mean()) for k in (plain, kept)]
    assert leak[1] < leak[0] / 10
    assert np.abs(kept - kernels).max() < 3 * np.abs(plain - kernels).max()
