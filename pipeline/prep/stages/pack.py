"""Stage: all timesteps of a capture into one shard, one at a time in memory.

Out   <out>/<capture>.h5; <out>/reports/<capture>.json: what was dropped, and why
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pipeline.core.config import to_dict
from pipeline.prep.items import load_item, read_reasons
from pipeline.prep.plan import Job
from pipeline.shards.writer import Header, ShardTimestep, placeholder_K, write_timesteps
from pipeline.system.files import inside, write_text

NO_LAYOUT = "unknown"
"""Layout of a shard whose timesteps have no codes."""


@dataclass
class PackStage:
    """Packs captures."""

    job: Job

    def path(self, name: str) -> Path:
        """Return where the shard of a capture belongs."""
        return inside(self.job.out, f"{name}.h5")

    def report(self, name: str) -> Path:
        """Return where the report of a capture belongs."""
        return inside(self.job.out / "reports", f"{name}.json")

    def reason(self, name: str) -> str:
        """Return why a capture was not packed: the most frequent reason of its timesteps."""
        reasons = list(read_reasons(self.report(name), "dropped_timesteps").values())
        return max(reasons, key=reasons.count, default="nothing of it is left")

    def __call__(self, name: str) -> None:
        """Write the report of one capture, and its shard if anything is left of it."""
        plan = self.job.plans[name]
        kept, dropped = self._sift(name)
        views = {
            f"{plan.timesteps[i].name} {camera}": reason
            for i in kept
            for camera, reason in self._reasons(name, i).items()
        }
        doubts = {
            f"{plan.timesteps[i].name} {camera}": note
            for i in kept
            for camera, note in self._notes(name, i).items()
        }
        report = {
            "capture": name,
            "timesteps": len(plan.timesteps),
            "kept": len(kept),
            "dropped_timesteps": dropped,
            "dropped_views": views,
            "doubted_views": doubts,
            "missing": dict(plan.missing),
            "facts": dict(plan.facts),
        }
        text = json.dumps(report, indent=1, sort_keys=True)
        write_text(self.report(name), text)
        if not kept:
            return
        layout, vertices = self._facts(name, kept[0])
        sentences = list(dict.fromkeys(plan.timesteps[i].sentence for i in kept))
        provenance = {
            "stage": "prep",
            "config": to_dict(self.job.config),
            "program": version("fastgha"),
            "color": plan.color,
            "cameras": list(plan.cameras),
            "sentences": sentences,
            "dropped": {"timesteps": len(dropped), "views": len(views)},
        }
        size = self.job.config.size
        neutral = self._neutral(name, kept)
        topology = "" if neutral is None else self._topology(name, kept[0])
        header = Header(
            plan.subject, layout, size, size, len(kept), len(plan.cameras), vertices, provenance,
            neutral, topology, plan.split,
        )  # fmt: skip
        write_timesteps(self.path(name), header, self._timesteps(name, kept, sentences))

    def _facts(self, name: str, i: int) -> tuple[str, int]:
        item = load_item(self.job.path("track", name, i))
        return item.notes.get("layout", NO_LAYOUT), len(item.arrays["vertices"])

    def _topology(self, name: str, i: int) -> str:
        return load_item(self.job.path("track", name, i), pictures=()).notes.get("topology", "")

    def _neutral(self, name: str, kept: list[int]) -> Float32[np.ndarray, "n 3"] | None:
        """Return the person's neutral mesh: the mean of what groups of pictures gave."""
        items = [load_item(self.job.path("track", name, i), pictures=()) for i in kept]
        # Work folders of earlier versions have none.
        found = [item.arrays["neutral"] for item in items if "neutral" in item.arrays]
        known = [mesh for mesh in found if len(mesh)]
        return np.mean(known, axis=0).astype(np.float32) if known else None

    def _sift(self, name: str) -> tuple[list[int], dict[str, str]]:
        """Return which timesteps can be packed, and the reasons of the others."""
        plan = self.job.plans[name]
        facts: dict[int, tuple[str, int]] = {}
        dropped: dict[str, str] = {}
        for i, step in enumerate(plan.timesteps):
            track = load_item(self.job.path("track", name, i))
            if "timestep" in track.dropped:
                dropped[step.name] = track.dropped["timestep"]
            elif self.job.config.need_codes and not np.isfinite(track.arrays["code"]).all():
                dropped[step.name] = "no expression code: the capture has no tracking of it"
            elif not any(self._pictures(name, i)["rgb"]):
                why = next(iter(self._reasons(name, i).values()), "no camera was taken")
                dropped[step.name] = f"no view is left: {why}"
            else:
                facts[i] = track.notes.get("layout", NO_LAYOUT), len(track.arrays["vertices"])
        usual = max(facts.values(), key=list(facts.values()).count) if facts else None
        for i in [i for i, fact in facts.items() if fact != usual]:
            dropped[plan.timesteps[i].name] = f"mesh or layout {facts.pop(i)}, most have {usual}"
        return list(facts), dropped

    def _reasons(self, name: str, i: int) -> dict[str, str]:
        crop = load_item(self.job.path("crop", name, i), pictures=()).dropped
        return {**crop, **load_item(self.job.path("matte", name, i), pictures=()).dropped}

    def _notes(self, name: str, i: int) -> dict[str, str]:
        """Return what the crop stage noted about views, by camera."""
        notes = load_item(self.job.path("crop", name, i), pictures=()).notes
        return {camera: notes[camera] for camera in self.job.plans[name].cameras if camera in notes}

    def _pictures(self, name: str, i: int) -> dict[str, tuple[bytes, ...]]:
        """Return the final pictures: those of the matte stage, else the crops with their matte."""
        crop = load_item(self.job.path("crop", name, i))
        matte = load_item(self.job.path("matte", name, i))
        rgb, alpha = list(matte.pictures["rgb"]), list(matte.pictures["alpha"])
        for v, camera in enumerate(self.job.plans[name].cameras):
            if not rgb[v] and crop.pictures["alpha"][v] and camera not in matte.dropped:
                rgb[v], alpha[v] = crop.pictures["rgb"][v], crop.pictures["alpha"][v]
        return {"rgb": tuple(rgb), "alpha": tuple(alpha)}

    def _timesteps(
        self, name: str, kept: list[int], sentences: list[str]
    ) -> Iterator[ShardTimestep]:
        plan, size = self.job.plans[name], self.job.config.size
        for i in kept:
            crop = load_item(self.job.path("crop", name, i), pictures=())
            track = load_item(self.job.path("track", name, i))
            pictures = self._pictures(name, i)
            E, K = crop.arrays["world_to_camera"].copy(), crop.arrays["K"].copy()
            gone = [v for v, data in enumerate(pictures["rgb"]) if not data]
            E[gone], K[gone] = np.eye(4), placeholder_K(size, size)
            views = len(plan.cameras)
            yield ShardTimestep(
                rgb=pictures["rgb"],
                alpha=pictures["alpha"],
                depth=(b"",) * views,
                world_to_camera=E.astype(np.float32),
                K=K.astype(np.float32),
                code=track.arrays["code"].astype(np.float32),
                sentence=sentences.index(plan.timesteps[i].sentence),
                landmarks=track.arrays["landmarks"].astype(np.float32),
                vertices=track.arrays["vertices"].astype(np.float32),
                depth_error=np.full(views, np.nan, np.float32),
            )
