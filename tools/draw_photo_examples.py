"""Draw docs/photographs_good.jpg and docs/photographs_bad.jpg: how to take one's own pictures.

    python tools/draw_photo_examples.py

A synthetic person stands in for everybody; what makes a picture bad is done to drawn ones. It takes
about a minute on two cores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from pipeline.core.framing import CROP_CENTER
from pipeline.core.geometry import look_at
from pipeline.core.types import Camera
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.subject import Subject

DOCS = Path(__file__).parents[1] / "docs"
SIZE, BAR = 256, 26
WALL = (203, 208, 212)
PERSON = 11


def main() -> None:
    """Draw both sheets."""
    subject, rng = person(SyntheticConfig(split="test"), PERSON)
    calm = np.zeros(52, np.float32)
    laughing = sample_expression(rng)

    def draw(
        yaw: float, pitch: float = 0.0, span: float = 0.4, weights: np.ndarray = calm
    ) -> Image.Image:
        return photograph(subject, weights, yaw, pitch, span)

    good = {
        "from the front": draw(0),
        "turned to the left": draw(-40),
        "turned to the right": draw(40),
        "a little from above": draw(12, 18),
    }
    bad = {
        "blurred": draw(0).filter(ImageFilter.GaussianBlur(4)),
        "too dark": ImageEnhance.Brightness(draw(-20)).enhance(0.25),
        "lit from one side": shade(draw(0)),
        "cut by the border": draw(10, span=0.2),
        "far away": draw(0, span=1.6),
        "something before it": cover(draw(15)),
        "from behind": draw(150),
        "another mood is fine": draw(-15, weights=laughing),
    }
    sheet(good, 4).save(DOCS / "photographs_good.jpg", quality=85)
    sheet(bad, 4).save(DOCS / "photographs_bad.jpg", quality=85)


def photograph(
    subject: Subject, weights: np.ndarray, yaw: float, pitch: float, span: float
) -> Image.Image:
    """Return a picture with a plain wall behind the head, as `camera_at` sees it."""
    frame = subject.render(weights, camera_at(yaw, pitch, span))
    alpha = frame.alpha[..., None] / 255
    behind = frame.rgb - 255 * (1 - alpha) + np.array(WALL) * (1 - alpha)
    return Image.fromarray(behind.clip(0, 255).round().astype(np.uint8))


def camera_at(yaw: float, pitch: float, span: float) -> Camera:
    """Return a camera that looks at the head; angles in degrees, what it sees in metres."""
    a, b = np.radians([yaw, pitch])
    target = torch.tensor(CROP_CENTER, dtype=torch.float32)
    toward = torch.tensor([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)]).float()
    focal = SIZE / span
    K = torch.tensor([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]])
    return Camera(look_at((target + toward)[None], target[None])[0], K, SIZE, SIZE)


def shade(picture: Image.Image) -> Image.Image:
    """Darken one half of a picture, as a window on the other side does."""
    fall = np.clip(1.15 - 1.25 * np.linspace(0, 1, SIZE), 0.08, 1)[None, :, None]
    return Image.fromarray((np.asarray(picture) * fall).clip(0, 255).astype(np.uint8))


def cover(picture: Image.Image) -> Image.Image:
    """Hide the mouth and a cheek."""
    hidden = picture.copy()
    ImageDraw.Draw(hidden).rounded_rectangle((96, 138, 190, 218), 18, fill=(96, 110, 132))
    return hidden


def sheet(pictures: dict[str, Image.Image], columns: int) -> Image.Image:
    """Lay pictures out in rows, each above its words."""
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * SIZE, rows * (SIZE + BAR)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for i, (words, picture) in enumerate(pictures.items()):
        x, y = i % columns * SIZE, i // columns * (SIZE + BAR)
        page.paste(picture, (x, y))
        pen.text((x + SIZE / 2, y + SIZE + BAR / 2), words, "black", font, anchor="mm")
    return page


if __name__ == "__main__":
    main()
