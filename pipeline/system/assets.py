"""The files that come with the package."""

from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"
CHECKPOINT = ASSETS / "small.safetensors"
SEQUENCE = ASSETS / "demo_sequence.npz"
HEAD = ASSETS / "head"
LIGHTS = ASSETS / "lights" / "lights.json"
POINTS = ASSETS / "points" / "points.safetensors"
EYES = ASSETS / "eyes" / "eyes.safetensors"
CORRECTION = ASSETS / "correction" / "correction.safetensors"
