import hashlib
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pipeline.core.errors import FormatError, InputError, ShapeError
from pipeline.shards.reader import Shard, by_person, find_shards
from pipeline.shards.sampling import ResolutionSchedule, Samples, SamplingConfig, draw, load_samples
from pipeline.shards.schema import FIELDS, PICTURES
from pipeline.shards.writer import ShardTimestep, placeholder_K, write_shard, write_timesteps
from tests.conftest import toy_capture

SAMPLING = SamplingConfig(inputs=2, min_inputs=2, targets=3)


def test_what_was_written_is_read_back(shards: Path):
    capture = toy_capture("anna")
    with Shard(shards / "anna.h5") as shard:
        view = shard.read([(2, 1), (0, 3)], 64)
        depth = shard.depth([(2, 1)], 64)
        shard.verify()
        assert shard.provenance == {"made by": "the tests"}
    # JPEG: a few grey levels
    rgb = torch.from_numpy(capture.rgb[2, 1]).permute(2, 0, 1) / 255
    assert (view.image[0] - rgb).abs().mean() < 0.01
    torch.testing.assert_close(
        view.alpha[1, 0], torch.from_numpy(capture.alpha[0, 3] / 255.0).float()
    )
    torch.testing.assert_close(
        depth[0, 0], torch.from_numpy(capture.depth[2, 1]), atol=5e-5, rtol=0
    )
    torch.testing.assert_close(view.camera.K[1], torch.from_numpy(capture.K[0, 3]))


def test_a_smaller_picture_is_the_mean_of_blocks_and_its_camera_sees_the_same(shards: Path):
    with Shard(shards / "anna.h5") as shard:
        full, half = shard.read([(0, 0)], 64), shard.read([(0, 0)], 32)
    mean = torch.nn.functional.avg_pool2d(full.image, 2)
    torch.testing.assert_close(half.image, mean, atol=1 / 255, rtol=0)
    torch.testing.assert_close(half.camera.K[0, :2], full.camera.K[0, :2] / 2)
    assert half.camera.width == 32


def test_depth_of_a_block_with_an_edge_is_unknown(shards: Path):
    with Shard(shards / "anna.h5") as shard:
        full, half = shard.depth([(0, 0)], 64), shard.depth([(0, 0)], 32)
    blocks = torch.nn.functional.unfold((full > 0).float(), 2, stride=2).reshape(1, 4, 32, 32)
    assert torch.equal(half[:, 0] > 0, blocks.min(1).values > 0)
    assert ((half == 0) | ((half - 0.95).abs() < 1e-4)).all()


def test_a_sample_follows_the_papers_rule(shards: Path):
    with Shard(shards / "anna.h5") as shard:
        seen = set()
        for seed in range(20):
            sample = draw(shard, SAMPLING, 32, np.random.default_rng(seed))
            assert len(sample.inputs) == 2 and len(sample.targets) == 3
            assert set(sample.input_views) <= set(sample.target_views)
            assert len(set(sample.target_views)) == 3
            # one timestep for all targets, which no input shows
            same = [t for t in range(4) if torch.equal(shard.code(t).values, sample.code.values)]
            centers = shard.cameras(same[0]).centers[list(sample.target_views)]
            torch.testing.assert_close(sample.targets.camera.centers, centers)
            for view, camera in zip(sample.input_views, sample.inputs.camera.centers):
                assert not torch.allclose(shard.cameras(same[0]).centers[view], camera)
            seen.add((sample.input_views, same[0]))
    assert len(seen) > 5


def test_the_sample_of_a_step_is_the_same_in_any_process_and_order(shards: Path):
    people = list(by_person(find_shards(shards)).values())
    samples = Samples([people], SAMPLING, ResolutionSchedule((32, 64), (2, 2)), seed=3)
    here = [samples[i] for i in range(4)]
    there = list(load_samples(samples, start=1, workers=1))
    assert [s.targets.camera.width for s in here] == [32, 32, 64, 64]
    for a, b in zip(here[1:], there, strict=True):
        assert torch.equal(a.inputs.image, b.inputs.image)
        assert torch.equal(a.code.values, b.code.values)


def test_a_truncated_shard_is_refused_by_name(shards: Path, tmp_path: Path):
    whole = (shards / "anna.h5").read_bytes()
    broken = tmp_path / "anna.h5"
    for share in (0, 0.3, 0.9):
        broken.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(FormatError, match=r"anna\.h5"):
            Shard(broken)


def test_a_flipped_byte_in_a_picture_is_found(shards: Path, tmp_path: Path):
    path = tmp_path / "anna.h5"
    path.write_bytes((shards / "anna.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        start, length = file["rgb"][1, 1].tolist()
        file["bytes"][start + length // 2] ^= 0xFF
    with Shard(path) as shard, pytest.raises(FormatError, match="does not have the content"):
        shard.verify()


def test_another_version_is_refused(shards: Path, tmp_path: Path):
    path = tmp_path / "anna.h5"
    path.write_bytes((shards / "anna.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 99
    with pytest.raises(FormatError, match="version 99"):
        Shard(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("K", np.full((4, 4, 3, 3), np.nan, np.float32), "K has values outside"),
        ("code", np.zeros((3, 120), np.float32), "code is"),
        ("code", np.zeros((4, 119), np.float32), "code is"),
        ("landmarks", np.full((4, 68, 3), 100, np.float32), "landmarks has values outside"),
        ("alpha", np.zeros((4, 4, 64, 64), np.float32), "alpha is float32"),
        ("depth", np.full((4, 4, 64, 64), 9.0, np.float32), "depth has values outside"),
    ],
)
def test_a_capture_against_the_schema_is_not_written(tmp_path: Path, field, value, message):
    path = tmp_path / "x.h5"
    with pytest.raises(ShapeError, match=message):
        write_shard(path, replace(toy_capture("anna"), **{field: value}), {})
    assert list(tmp_path.iterdir()) == []


def test_no_folder_and_no_shard_say_what_to_do(tmp_path: Path):
    with pytest.raises(InputError, match="no folder"):
        find_shards(tmp_path / "none")
    with pytest.raises(InputError, match="no shard"):
        find_shards(tmp_path)


def test_too_few_timesteps_name_the_shard(shards: Path):
    with Shard(shards / "anna.h5") as shard, pytest.raises(InputError, match=r"anna\.h5"):
        draw(shard, SamplingConfig(inputs=4), 64, np.random.default_rng(0))


def test_the_number_of_inputs_varies_and_is_mostly_the_largest(shards: Path):
    sampling = SamplingConfig(inputs=3, min_inputs=1, targets=3)
    with Shard(shards / "anna.h5") as shard:
        counts = [
            len(draw(shard, sampling, 32, np.random.default_rng(seed)).inputs)
            for seed in range(120)
        ]
    found = np.bincount(counts, minlength=4)[1:]
    assert (found > 0).all() and found[2] > found[1] > found[0]


def timesteps(shard: Shard, missing: set[tuple[int, int]]) -> Iterator[ShardTimestep]:
    """The timesteps of a shard, without some of their views."""
    for t in range(shard.timesteps):
        timestep = shard.read_timestep(t)
        for v in (v for at, v in missing if at == t):
            timestep.world_to_camera[v], timestep.K[v] = (
                np.eye(4),
                placeholder_K(64, 64),
            )
            timestep.depth_error[v] = np.nan
            some = {
                name: tuple(
                    b"" if i == v else data for i, data in enumerate(getattr(timestep, name))
                )
                for name in PICTURES
            }
            timestep = replace(timestep, **some)
        yield timestep


def test_missing_views_are_marked_and_cannot_be_read(shards: Path, tmp_path: Path):
    path = tmp_path / "gaps.h5"
    with Shard(shards / "anna.h5") as whole:
        write_timesteps(path, whole.header(), timesteps(whole, {(1, 2), (3, 0)}))
        with Shard(path) as shard:
            shard.verify()
            assert (~shard.valid).nonzero()[0].tolist() == [1, 3]
            assert not shard.valid[1, 2] and not shard.valid[3, 0]
            assert len(shard.cameras(1)) == 4  # placeholders are cameras too
            assert torch.equal(shard.read([(1, 1)], 64).image, whole.read([(1, 1)], 64).image)
            for read in (shard.read, shard.depth):
                with pytest.raises(InputError, match="no view 2 at timestep 1"):
                    read([(1, 2)], 64)


def test_a_view_without_depth_has_none_anywhere(shards: Path, tmp_path: Path):
    path = tmp_path / "flat.h5"
    with Shard(shards / "anna.h5") as whole:
        flat = (replace(whole.read_timestep(t), depth=(b"",) * 4) for t in range(whole.timesteps))
        write_timesteps(path, whole.header(), flat)
    with Shard(path) as shard:
        assert shard.valid.all() and not shard.depth([(0, 0), (2, 1)], 32).any()


def test_writing_again_gives_the_same_bytes(shards: Path, tmp_path: Path):
    for name in ("a.h5", "b.h5"):
        with Shard(shards / "bert.h5") as shard:
            write_timesteps(tmp_path / name, shard.header(), timesteps(shard, set()))
    assert (tmp_path / "a.h5").read_bytes() == (shards / "bert.h5").read_bytes()
    assert (tmp_path / "b.h5").read_bytes() == (shards / "bert.h5").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: replace(m, K=m.K.astype(np.float64)), "K of timestep 0 is float64"),
        (lambda m: replace(m, code=m.code[:119]), "code of timestep 0"),
        (lambda m: replace(m, code=m.code + 99), "code of timestep 0 has values outside"),
        (lambda m: replace(m, rgb=m.rgb[:3]), "timestep 0 has 3 rgb pictures"),
        (lambda m: replace(m, rgb=(b"", *m.rgb[1:])), "alpha without rgb"),
    ],
)
def test_a_timestep_against_the_schema_is_not_written(shards: Path, tmp_path: Path, change, words):
    with Shard(shards / "anna.h5") as shard:
        bad = (change(shard.read_timestep(t)) for t in range(shard.timesteps))
        with pytest.raises(ShapeError, match=words):
            write_timesteps(tmp_path / "x.h5", shard.header(), bad)
        few = (shard.read_timestep(t) for t in range(shard.timesteps - 1))
        with pytest.raises(ShapeError, match="3 timesteps, 4 expected"):
            write_timesteps(tmp_path / "x.h5", shard.header(), few)
    assert list(tmp_path.iterdir()) == []


def test_a_long_capture_is_written_without_being_in_memory(shards: Path, tmp_path: Path):
    with Shard(shards / "anna.h5") as shard:
        one = replace(shard.read_timestep(0), rgb=(bytes(100_000),) * 4)
        header = replace(shard.header(), timesteps=200)
        tracemalloc.start()
        write_timesteps(tmp_path / "long.h5", header, (one for _ in range(200)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "long.h5").stat().st_size > 80e6
    assert peak < 8e6


def test_the_first_version_is_still_read(shards: Path, tmp_path: Path):
    path = tmp_path / "old.h5"
    with Shard(shards / "anna.h5") as shard, h5py.File(path, "w") as file:
        made = [shard.read_timestep(t) for t in range(4)]
        sums = hashlib.sha256()
        for name, field in FIELDS.items():
            if name in PICTURES:
                data = file.create_dataset(name, (4, 4), h5py.vlen_dtype(np.uint8))
                for t, v in np.ndindex(4, 4):
                    data[t, v] = np.frombuffer(getattr(made[t], name)[v], np.uint8)
                    sums.update(getattr(made[t], name)[v])
            elif field.since == 1:
                values = np.stack([np.asarray(getattr(m, name)) for m in made])
                values = values.astype(field.dtype)
                packing = {"compression": "gzip", "shuffle": True} if values.ndim > 2 else {}
                file.create_dataset(name, data=values, **packing)
                sums.update(values.tobytes())
        facts = {"format": "fastgha-shard", "version": 1, "subject": "anna", "width": 64}
        facts |= {"layout": shard.layout, "height": 64, "provenance": "{}"}
        file.attrs.update({**facts, "checksum": sums.hexdigest()})
        with Shard(shards / "anna.h5") as new:
            wanted = new.read([(2, 1)], 32).image
    with Shard(path) as old:
        old.verify()
        assert old.valid.all()
        assert torch.equal(old.read([(2, 1)], 32).image, wanted)


def test_samples_pass_over_missing_views_and_unknown_codes(shards: Path, tmp_path: Path):
    with Shard(shards / "anna.h5") as whole:
        head = whole.header()
        timesteps = [whole.read_timestep(t) for t in range(whole.timesteps)]
        views = whole.views
    gone, unknown = 1, 2

    def without(timestep: ShardTimestep, view: int) -> ShardTimestep:
        def drop(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
            return tuple(b"" if v == view else part for v, part in enumerate(parts))

        K = timestep.K.copy()
        K[view] = placeholder_K(head.width, head.height)
        E = timestep.world_to_camera.copy()
        E[view] = np.eye(4)
        error = timestep.depth_error.copy()
        error[view] = np.nan
        return replace(
            timestep, rgb=drop(timestep.rgb), alpha=drop(timestep.alpha),
            depth=drop(timestep.depth), K=K, world_to_camera=E, depth_error=error,
        )  # fmt: skip

    # The first view is missing in the first timestep; one timestep has no code.
    timesteps[0] = without(timesteps[0], gone)
    timesteps[unknown] = replace(
        timesteps[unknown], code=np.full_like(timesteps[unknown].code, np.nan)
    )
    path = tmp_path / "holes.h5"
    write_timesteps(path, head, iter(timesteps))
    config = SamplingConfig(inputs=1, min_inputs=1, targets=min(3, views - 1))
    with Shard(path) as shard:
        assert not shard.valid[0, gone] and not shard.coded[unknown]
        targets = set()
        for seed in range(40):
            sample = draw(shard, config, 64, np.random.default_rng(seed))
            assert torch.isfinite(sample.code.values).all()
            targets.add(sample.target_views)
        assert len(targets) > 1


def test_the_neutral_mesh_is_read_back_and_guides_a_sample(shards: Path, tmp_path: Path):
    capture = toy_capture("anna")
    with Shard(shards / "anna.h5") as shard:
        shard.verify()
        assert shard.neutral is not None
        np.testing.assert_array_equal(shard.neutral, capture.neutral)
        mesh = shard.mesh([2, 0])
        np.testing.assert_array_equal(mesh.posed, capture.vertices[[2, 0]])
        write_timesteps(tmp_path / "a.h5", shard.header(), timesteps(shard, set()))
        clean = draw(shard, SAMPLING, 64, np.random.default_rng(0), 2)
        shaken = replace(SAMPLING, noise_degrees=2.0, noise_mm=5.0)
        noisy = draw(shard, shaken, 64, np.random.default_rng(0), 2)
        assert draw(shard, SAMPLING, 64, np.random.default_rng(0)).guide is None
    assert (tmp_path / "a.h5").read_bytes() == (shards / "anna.h5").read_bytes()
    assert clean.guide is not None and noisy.guide is not None
    assert clean.guide.canonical.shape == (2, 3, 32, 32) and clean.guide.coverage.any()
    # a mesh is fitted in its picture: it moves with the camera
    assert not torch.equal(clean.inputs.camera.world_to_camera, noisy.inputs.camera.world_to_camera)
    assert torch.equal(clean.guide.canonical, noisy.guide.canonical)


def test_a_shard_without_a_neutral_mesh_says_what_a_guided_model_needs(tmp_path: Path):
    capture = toy_capture("anna")
    write_shard(tmp_path / "none.h5", replace(capture, neutral=None, topology=""), {})
    with Shard(tmp_path / "none.h5") as shard:
        shard.verify()
        assert shard.neutral is None
        with pytest.raises(FormatError, match=r"no neutral mesh.*fastgha prep.*no-guide"):
            shard.mesh([0])
    write_shard(tmp_path / "other.h5", replace(capture, topology="another"), {})
    with Shard(tmp_path / "other.h5") as shard, pytest.raises(FormatError, match="another"):
        shard.mesh([0])
    with pytest.raises(ShapeError, match="neutral is"):
        write_shard(tmp_path / "x.h5", replace(capture, neutral=capture.neutral[:9]), {})


def test_version_2_is_read_as_it_was(shards: Path, tmp_path: Path):
    """A file of version 2: the same but for the neutral mesh, and its checksum without it."""
    path = tmp_path / "old.h5"
    path.write_bytes((shards / "anna.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        del file["neutral"], file.attrs["topology"]
        file.attrs["version"] = 2
        total = hashlib.sha256()
        for name, field in FIELDS.items():
            one = hashlib.sha256()
            if name in PICTURES:
                for start, length in file[name][:].reshape(-1, 2).tolist():
                    one.update(file["bytes"][start : start + length].tobytes())
            elif field.since < 3:
                one.update(file[name][:].tobytes())
            else:
                continue
            total.update(one.digest())
        file.attrs["checksum"] = total.hexdigest()
    with Shard(path) as old, Shard(shards / "anna.h5") as new:
        old.verify()
        assert torch.equal(old.read([(1, 1)], 64).image, new.read([(1, 1)], 64).image)
        assert old.neutral is None
        with pytest.raises(FormatError, match="no neutral mesh"):
            old.mesh([0])
