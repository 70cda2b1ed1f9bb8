"""Make an avatar many times faster: python examples/light.py demo_out/head.avatar fast.avatar."""

import sys
from pathlib import Path

from fastgha import Avatar, BakeConfig, bake, prune

avatar = Avatar.load(sys.argv[1])
pruned, _ = prune(avatar, tolerance_db=0.3)
light, _ = bake(pruned, BakeConfig(tolerance_db=0.3))
print(f"{len(avatar.canonical)} Gaussians, now {len(light.canonical)}")
light.save(Path(sys.argv[2]))
