"""The paper's model, with small networks of random weights saved and read as the real ones are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ConfigError, FormatError, MissingWeightsError
from pipeline.faces.layouts import neutral_code
from pipeline.model.config import (
    DecoderConfig,
    DeformConfig,
    FeatureConfig,
    ModelConfig,
    TransformerConfig,
)
from pipeline.model.fastgha import FastGHA
from pipeline.model.hub import BACKBONES, VAE
from pipeline.train.presets import ABLATIONS, PRESETS, recipe
from tests.conftest import LAYOUT, blob_views, still_mesh

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights laid out as the hub's."""
    from diffusers import AutoencoderKL
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        DINOv3ViTConfig,
        DINOv3ViTModel,
        Sapiens2Config,
        Sapiens2Model,
    )

    home = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=[8, 8, 16, 16], down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=1, norm_num_groups=4,
    ).save_pretrained(home / VAE / "vae")  # fmt: skip
    for kind, model, config in (
        ("dinov3", DINOv3ViTModel, DINOv3ViTConfig(**SMALL, num_register_tokens=4)),
        ("dinov2", Dinov2Model, Dinov2Config(**SMALL, patch_size=14)),
        ("sapiens", Sapiens2Model, Sapiens2Config(**SMALL, intermediate_size=64)),
    ):
        model(config).save_pretrained(home / BACKBONES[kind].hub)
    return home


@pytest.fixture
def weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(home))
    return home


def config(backbone: str = "dinov3") -> ModelConfig:
    return ModelConfig(
        image_size=64,
        features=FeatureConfig(channels=8, backbone=backbone, layers=(2, 4)),
        transformer=TransformerConfig(width=16, layers=1, heads=2),
        decoder=DecoderConfig(),
        deform=DeformConfig(width=16, layers=2, frequencies=2),
    )


@pytest.mark.parametrize("backbone", ["dinov3", "dinov2", "sapiens", "none"])
def test_every_backbone_gives_a_gaussian_for_each_pixel(weights, backbone):
    model = FastGHA(config(backbone), "float32")
    head = model.reconstruct(blob_views(2, 64))
    assert len(head.gaussians) == 2 * 64 * 64 and head.features.shape[1] == 32
    assert model.transformer.embed.in_features == (0 if backbone == "none" else 8) + 4 + 6


def test_frozen_networks_are_out_of_reach_of_training(weights):
    model = FastGHA(config(), "float32").train()
    frozen = model.features._frozen
    names = [name for name, _ in model.named_parameters()]
    assert set(frozen) == {"vae", "vit"}
    assert not any("vae" in n or "vit" in n for n in [*names, *model.state_dict()])
    for net in frozen.values():
        assert not any(module.training for module in net.modules())
    before = {k: [p.clone() for p in net.parameters()] for k, net in frozen.items()}
    adam = torch.optim.Adam(model.parameters(), 0.1)
    head = model.reconstruct(blob_views(2, 64))
    (head.gaussians.means.square().sum() + head.features.square().sum()).backward()
    adam.step()
    for key, net in frozen.items():
        for old, new in zip(before[key], net.parameters()):
            assert new.grad is None and torch.equal(old, new)
    trained = [n for n, p in model.named_parameters() if p.grad is not None]
    assert any(n.startswith("features.take") for n in trained)
    assert any(n.startswith("decoder.up") for n in trained)
    assert {p.dtype for p in model.double().features._frozen["vae"].parameters()} == {torch.float64}


def test_features_are_those_of_the_networks_themselves(weights):
    from diffusers import AutoencoderKL

    model = FastGHA(config(), "float32")
    rgb = torch.rand(2, 3, 64, 48) * 2 - 1
    vae = AutoencoderKL.from_pretrained(weights / VAE, subfolder="vae")
    mean = vae.encode(rgb).latent_dist.mean
    torch.testing.assert_close(model.features.latents(rgb), mean * 0.18215)
    last = model.features.tokens(rgb)[-1]
    assert last.shape == (2, 32, 4, 3)
    vit = model.features._frozen["vit"]
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406),
                                                          (0.229, 0.224, 0.225)))  # fmt: skip
    raw = vit(((rgb + 1) / 2 - mean) / std, output_hidden_states=True).hidden_states[-1]
    want = torch.nn.functional.layer_norm(raw, raw.shape[-1:])[1, 5 + 3 * 2 + 1]
    torch.testing.assert_close(last[1, :, 2, 1], want)


def test_the_decoder_keeps_the_inner_weights_and_looks_across_views(weights):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(weights / VAE, subfolder="vae")
    model = FastGHA(config(), "float32")
    inner = model.decoder.up[1].resnets[0].conv1.weight
    assert torch.equal(inner, vae.decoder.up_blocks[1].resnets[0].conv1.weight)
    bare = config()
    bare = replace(bare, decoder=replace(bare.decoder, pretrained=False))
    other = FastGHA(bare, "float32").decoder.up[1].resnets[0].conv1.weight
    assert not torch.equal(inner, other)
    # One view alone is what the VAE's own mid block gives.
    x = torch.randn(1, 16, 4, 4)
    first, across, second = model.decoder.mid
    torch.testing.assert_close(second(across(first(x, None)), None), vae.decoder.mid_block(x))
    pair = torch.randn(2, 16, 4, 4)
    changed = pair.clone()
    changed[1] += 1
    assert not torch.allclose(across(pair)[0], across(changed)[0], atol=1e-5)


def test_step_zero_is_a_plausible_head(weights):
    views = blob_views(2, 64)
    g = FastGHA(config(), "float32").reconstruct(views).gaussians
    assert (g.means.norm(dim=-1) < 0.6).all()
    assert 0.3 < g.opacities.mean() < 0.7
    pixels = g.scales / (1.0 / views.camera.K[0, 0, 0])
    assert 0.05 < pixels.median() < 4
    picture = views.image.permute(0, 2, 3, 1).reshape(-1, 3)
    assert (g.colors - picture).abs().mean() < 0.1


def test_missing_weights_name_what_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(MissingWeightsError, match=r"stabilityai/sd-turbo .*hf download"):
        FastGHA(config())


def test_weights_of_another_network_are_refused(weights):
    wrong = config()
    folder = str(weights / BACKBONES["dinov2"].hub)
    wrong = replace(wrong, features=replace(wrong.features, backbone_weights=folder))
    with pytest.raises(FormatError, match="another network|cannot be read"):
        FastGHA(wrong)


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "no-guide"])
def test_what_an_ablation_takes_away_is_gone(weights, name):
    paper, ablated = recipe("paper"), recipe(name)
    assert ablated == recipe(f"paper/{name}") != paper
    shrunk = {"transformer": config().transformer, "deform": None, "image_size": 64}
    features = replace(ablated.model.features, channels=8, layers=(2, 4))
    shrunk["deform"] = replace(ablated.model.deform, width=16, layers=2)
    model = FastGHA(replace(ablated.model, features=features, **shrunk), "float32")
    names = set(dict(model.named_parameters()))
    gone = {
        "no-dino": lambda: (
            "vit" not in model.features._frozen
            and not any(n.startswith("features.") for n in names)
        ),
        "no-features": lambda: model.config.channels == 12,
        "features-16": lambda: model.config.channels == 28,
        "features-64": lambda: model.config.channels == 76,
        "no-colour-offsets": lambda: model.deformation.out.out_features == 3,
        "no-geo": lambda: ablated.loss.depth == 0,
        "no-vae-weights": lambda: not ablated.model.decoder.pretrained,
        "guided": lambda: ablated.model.guide == "mesh" and "deformation.of_motion.weight" in names,
        "sapiens": lambda: type(model.features._frozen["vit"]).__name__ == "Sapiens2Model",
    }
    assert gone[name]()
    views = blob_views(2, 64)
    head = model.reconstruct(views, model.guide(still_mesh(2), views.camera))
    code = neutral_code(LAYOUT).values
    animated = model.animate(model.prepare(head), code)
    assert len(animated) == len(head.gaussians)


def test_ablations_of_other_presets_and_names_that_are_not_there():
    assert recipe("small/features-16").model.gaussian_features == 16
    for name in ("small/no-dino", "small/sapiens", "tiny/no-vae-weights"):
        with pytest.raises(ConfigError, match="preset paper"):
            recipe(name)
    assert recipe("small").model.guide == recipe("tiny").model.guide == "mesh"
    assert recipe("small/no-guide").model.guide == recipe("paper").model.guide == "none"
    assert recipe("guided") == recipe("paper/guided")
    for name in ("small/guided", "paper/no-guide", "no-guide"):
        with pytest.raises(ConfigError, match="already"):
            recipe(name)
    for name in ("smal", "small/no-goe", "papers/no-geo"):
        with pytest.raises(ConfigError, match="There is no"):
            recipe(name)
    assert set(PRESETS) == {"paper", "small", "tiny"}


def test_the_published_sizes_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        from pipeline.model.hub import load_backbone, load_vae

        vae, vit = load_vae(VAE, "random"), load_backbone("dinov3", "", "random")
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in vit.parameters()) == 303_129_600
