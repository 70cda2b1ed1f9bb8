"""Animate avatars side by side: python examples/video.py a.avatar b.avatar together.mp4."""

import sys
from pathlib import Path

from fastgha import Avatar, Style, orbit, read_expressions, write_video

avatars = [Avatar.load(path) for path in sys.argv[1:-1]]
sequences = [
    read_expressions("pipeline/assets/demo_sequence.npz", avatar.layout) for avatar in avatars
]
cameras = orbit(len(sequences[0]), 128, degrees=60.0)
write_video(Path(sys.argv[-1]), avatars, sequences, cameras, Style(background="#eef2f5"))
