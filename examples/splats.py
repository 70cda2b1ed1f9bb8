"""Give frames to other programs as splats: python examples/splats.py head.avatar folder."""

import sys
from pathlib import Path

from fastgha import Avatar, read_expressions, write_splats

avatar = Avatar.load(sys.argv[1])
sequence = read_expressions("pipeline/assets/demo_sequence.npz", avatar.layout)
for i in range(0, len(sequence), 25):
    write_splats(Path(sys.argv[2]) / f"frame_{i:03d}.ply", avatar.animate(sequence.codes[i]))
