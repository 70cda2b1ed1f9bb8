import json

import pytest

from pipeline.core.config import from_dict, override, to_dict
from pipeline.core.errors import ConfigError
from pipeline.model.config import ModelConfig
from pipeline.train.config import TrainConfig
from pipeline.train.presets import PRESETS, recipe, small


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_json(name: str):
    config = recipe(name)
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_the_papers_model_has_44_channels():
    assert ModelConfig().channels == 44
    # A guide needs three numbers of position, where depth along the ray is one.
    assert small().channels == 46
    assert override(ModelConfig(), ["position=xyz"]).channels == 46
    assert override(ModelConfig(), ["gaussian_features=16"]).channels == 28


def test_an_override_changes_one_setting():
    config = override(recipe("small"), ["loss.depth=0", "sizes=[32]", "steps=[7]"])
    assert config.loss.depth == 0.0
    assert config.resolutions.total == 7
    assert config.model == recipe("small").model


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("loss.dpeth=0", "Did you mean depth"),
        ("los.depth=0", "Did you mean loss"),
        ("lr", "sets nothing"),
        ("lr=true", "must be float"),
        ("seed=1.5", "must be int"),
        ("schedule=linear", "Choose one of: constant, cosine"),
        ("model=3", "group of settings"),
        ("sizes=[30]", "multiples of 16"),
        ("steps=[1,2]", "do not go together"),
        ("model.transformer.heads=5", "multiple of the heads"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_remedy(assignment: str, message: str):
    with pytest.raises(ConfigError, match=message):
        override(recipe("tiny"), [assignment])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean small"):
        recipe("smal")
