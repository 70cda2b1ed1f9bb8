"""Pictures to look at, and a page that holds everything."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluate.run import Scene
from pipeline.evaluate.tables import Table
from pipeline.io.images import write_rgb
from pipeline.io.sheets import grid
from pipeline.model.fastgha import FastGHA
from pipeline.render import render
from pipeline.system.files import write_text

Picture = tuple[str, Path]
"""A caption, and the file."""
ERROR_TOP = 0.3
"""Error of a channel, averaged over the three, at the bright end of an error map."""
ERROR_COLORS = (
    (0.001, 0.000, 0.014), (0.129, 0.047, 0.291), (0.342, 0.062, 0.429),
    (0.541, 0.135, 0.415), (0.736, 0.216, 0.330), (0.894, 0.353, 0.194),
    (0.978, 0.558, 0.035), (0.975, 0.798, 0.206), (0.988, 0.998, 0.645),
)  # fmt: skip
"""From no error to the largest: matplotlib's inferno (CC0) at nine places."""
STYLE = (
    "body{font-family:sans-serif;max-width:1200px;margin:2em auto;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{border:1px solid #ccc;padding:4px 10px;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}.note{color:#666;font-size:90%}"
)


@dataclass(frozen=True)
class Report:
    """What came out of an experiment."""

    title: str
    tables: tuple[Table, ...]
    """The first is the one that is written for spreadsheets and papers."""
    pictures: tuple[Picture, ...]
    values: Mapping[str, object]
    """Everything as JSON values."""

    def write(self, out: Path) -> Path:
        """Write the first table for spreadsheets and papers, and a page with everything.

        Returns:
            The page.
        """
        first = self.tables[0]
        for name, text in (("table.csv", first.csv()), ("table.tex", first.latex())):
            write_text(out / name, text)
        page(out / "report.html", self.title, self.tables, self.pictures)
        return out / "report.html"


class Sheet:
    """Collects a row of pictures for each of the first people: inputs, methods, truth, error.

    As Figures 3 to 6 and 13 of the paper; with several models, as Figure 11.
    """

    def __init__(self, people: int = 6) -> None:
        self._most = people
        self._rows: dict[str, dict[str, Tensor]] = {}

    def show(
        self, name: str, model: FastGHA | None, seen: Scene, drawn: Tensor, truth: Tensor
    ) -> None:
        """Take the first target of a person's first avatar, as one method drew it."""
        subject = seen.task.subject
        if seen.task.avatar or (len(self._rows) >= self._most and subject not in self._rows):
            return
        row = self._rows.setdefault(subject, {"inputs": seen.inputs.image})
        if model is not None and "canonical" not in row:
            row["canonical"] = canonical(model, seen)
        row.pop("truth", None)
        row[name] = torch.cat([drawn[:1], error_map(drawn[:1], truth[:1])])
        row["truth"] = truth[:1]

    def write(self, path: Path) -> None:
        """Write the rows as one picture."""
        write_rgb(path, grid([torch.cat(list(row.values())) for row in self._rows.values()]))

    @property
    def legend(self) -> str:
        """What stands in a row, from left to right."""
        row = next(iter(self._rows.values()), {})
        words = {"inputs": "inputs", "canonical": "canonical head", "truth": "truth"}
        return ", ".join(words.get(name, f"{name} and its error") for name in row)


def canonical(model: FastGHA, seen: Scene) -> Float[Tensor, "1 3 h w"]:
    """Draw the head before any expression from the first target's camera."""
    device = next(model.parameters()).device
    head = model.reconstruct(seen.inputs.to(device), seen.guide(model))
    white = torch.ones(3, device=device)
    drawn = render(head.gaussians, seen.camera[:1].to(device), background=white)
    return drawn.color.permute(0, 3, 1, 2).clamp(0, 1).cpu()


def error_map(
    drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"]
) -> Float[Tensor, "v 3 h w"]:
    """Return the mean absolute error of a pixel in colours: dark is none, bright is 0.3 or more."""
    error = ((drawn - truth).abs().mean(1) / ERROR_TOP).clamp(0, 1).numpy()
    marks = np.linspace(0, 1, len(ERROR_COLORS))
    colors = [np.interp(error, marks, channel) for channel in np.transpose(ERROR_COLORS)]
    return torch.from_numpy(np.stack(colors, 1)).float()


def page(path: Path, title: str, tables: Sequence[Table], pictures: Sequence[Picture]) -> None:
    """Write a page that needs nothing else: tables, and pictures with their captions."""
    parts = [f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>"]
    parts += [f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"]
    for table in tables:
        parts.append(f"<h2>{html.escape(table.title)}</h2><table><tr>")
        parts += [f"<th>{html.escape(column)}</th>" for column in table.columns]
        parts.append("</tr>")
        for row in table.rows:
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</table>")
        parts += [f"<p class='note'>{html.escape(note)}</p>" for note in table.notes]
    for caption, picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        kind = "jpeg" if picture.suffix == ".jpg" else "png"
        parts.append(
            f"<figure><img alt='{html.escape(caption)}' src='data:image/{kind};base64,{data}'>"
            f"<figcaption class='note'>{html.escape(caption)}</figcaption></figure>"
        )
    text = "\n".join(parts)
    write_text(path, text)
