"""The commands that the table of recipes makes: what each asks of the pipeline."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from fastgha_cli.app import app
from fastgha_cli.recipes import CHOICES, EVERY_RECIPE, RECIPES, STAGES
from pipeline.captures.registry import READERS
from pipeline.prep import run as prep
from pipeline.prep.plan import PrepConfig


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    calls: list[tuple] = []
    done = SimpleNamespace(done=3, skipped=2, dropped={"x": "too dark"})

    def run(raw, out, config, *, tick, announce, **how):
        announce("codes of our own fit.")
        calls.append((raw, out, config, how))
        tick("crop", 1, 1)
        return done

    def run_stage(out, stage, *, tick, **how):
        calls.append((out, stage, how))
        return done

    monkeypatch.setattr(prep, "run", run)
    monkeypatch.setattr(prep, "run_stage", run_stage)
    return calls


def fastgha(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


FEW = PrepConfig("photos", cameras=0, need_codes=False)
AS_PLAIN = {
    "ava256": PrepConfig("ava256"),
    "nersemble": PrepConfig("nersemble", cameras=0),
    "folder": PrepConfig("folder", cameras=0),
    "photos": FEW,
    "video": PrepConfig("video", cameras=0, need_codes=False),
}


@pytest.mark.parametrize("source", AS_PLAIN)
def test_a_recipe_without_options_asks_for_its_own_settings(source: str, asked: list[tuple]):
    said = fastgha("prep", source, "raw", "-o", "out")
    ((raw, out, config, how),) = asked
    assert (raw, out, config) == (Path("raw"), Path("out"), AS_PLAIN[source])
    workers = 1 if source in ("photos", "video") else 2
    assert how == {"workers": workers, "ray": None, "overwrite": False, "device": "cpu"}
    assert said.startswith("codes of our own fit.")
    assert "3 items made, 2 were there already." in said and "x left out: too dark." in said


def test_every_option_reaches_the_setting_it_names(asked: list[tuple], tmp_path: Path):
    fastgha(
        "prep", "nersemble", "raw", "-o", "out", "--size", "64", "--cameras", "3", "--segments",
        "EXP_*", "--every", "5", "--most", "6", "--matting", "u2netp", "--detector", "fan",
        "--no-codes", "--flame", str(tmp_path / "f.npz"), "--tracking", str(tmp_path), "--face",
        str(tmp_path / "g.npz"), "--workers", "7", "--ray", "auto", "--overwrite",
    )  # fmt: skip
    ((_, _, config, how),) = asked
    assert config == PrepConfig(
        "nersemble", size=64, cameras=3, segments="EXP_*", every=5, max_timesteps=6,
        matting="u2netp", detector="fan", need_codes=False, flame=str(tmp_path / "f.npz"),
        tracking=str(tmp_path), face=str(tmp_path / "g.npz"),
    )  # fmt: skip
    assert how == {"workers": 7, "ray": "auto", "overwrite": True, "device": "cpu"}


def test_a_dry_run_makes_nothing_and_says_what_it_would(
    asked: list[tuple], monkeypatch: pytest.MonkeyPatch
):
    plan = SimpleNamespace(
        captures=1, timesteps=2, pictures=3, bytes_needed=4e9, bytes_free=5e9, seconds=7200.0
    )
    monkeypatch.setattr(prep, "estimate", lambda raw, out, config: plan)
    said = fastgha("prep", "photos", "raw", "-o", "out", "--dry-run", "--workers", "2")
    assert asked == [] and said.strip() == (
        "1 captures, 2 timesteps, 3 pictures; about 4.0 GB needed, 5.0 GB free; about 1.0 hours"
    )


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_a_stage_is_run_by_its_name(stage: str, asked: list[tuple]):
    fastgha("prep", stage, "out", "--ray", "local")
    workers = 1 if stage == "pack" else 2
    assert asked == [(Path("out"), stage, {"workers": workers, "ray": "local", "device": "cpu"})]


def test_the_table_names_every_source_every_stage_and_known_choices():
    assert {recipe.source for recipe in RECIPES} == set(READERS)
    assert tuple(stage.name for stage in STAGES) == tuple(prep.STAGES)
    for recipe in RECIPES:
        assert set(EVERY_RECIPE) | set(recipe.choices) | set(recipe.defaults) <= set(CHOICES)
        assert not set(recipe.fixed) & {CHOICES[name].setting for name in recipe.choices}
