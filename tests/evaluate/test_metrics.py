"""How pictures are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.core.errors import ConfigError
from pipeline.evaluate.metrics import prepare, psnr, ssim
from tests.evaluate.toys import TOY


def test_psnr_and_ssim_are_those_of_scikit_image():
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 3, 64, 64)
    b = 0.5 * (a + b)
    for i in range(3):
        x, y = (p[i].permute(1, 2, 0).numpy() for p in (a, b))
        assert psnr(a, b)[i] == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-4)
        want = structural_similarity(
            x, y, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, win_size=11,
        )  # fmt: skip
        assert ssim(a, b)[i] == pytest.approx(want, abs=5e-3)


def test_networks_that_are_missing_leave_a_column_with_a_reason():
    metrics = prepare(TOY)
    assert set(metrics.run) == {"PSNR", "SSIM"}
    assert set(metrics.missing) == {"LPIPS", "CSIM", "AKD"}
    assert "alexnet-owt-7be5be79.pth" in metrics.missing["LPIPS"]
    assert metrics.heads["CSIM"] == "CSIM (faceplugin fr_feature)"
    with pytest.raises(ConfigError, match="names a network 'alexx'"):
        prepare(replace(TOY, lpips="alexx"))


def test_likeness_and_keypoints_of_real_networks_where_they_are(monkeypatch):
    from pipeline.core.errors import MissingPackageError, MissingWeightsError
    from pipeline.evaluate.metrics import METRICS
    from pipeline.system import weights

    monkeypatch.undo()  # the real places of weights
    try:
        csim, akd = METRICS["CSIM"].make("fr_feature"), METRICS["AKD"].make("face_mesh")
    except (MissingWeightsError, MissingPackageError) as error:
        pytest.skip(str(error))
    from skimage.data import astronaut

    rgb = torch.from_numpy(astronaut()[:256, 100:356].copy()).permute(2, 0, 1)[None] / 255
    moved = torch.roll(rgb, 4, dims=3)
    assert float(csim(rgb, rgb)) == pytest.approx(1, abs=1e-4) and float(akd(rgb, rgb)) == 0
    assert float(akd(moved, rgb)) == pytest.approx(4, abs=1)
    assert float(csim(moved, rgb)) > 0.9
    assert torch.isnan(csim(torch.ones_like(rgb), rgb)).all()
    assert weights.find("fr_feature").is_file()
