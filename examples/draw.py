"""Draw one expression of an avatar: python examples/draw.py demo_out/head.avatar face.png."""

import sys

from PIL import Image

from fastgha import Avatar, orbit, read_expressions

avatar = Avatar.load(sys.argv[1])
sequence = read_expressions("pipeline/assets/demo_sequence.npz", avatar.layout)
picture = avatar.render(sequence.codes[40], orbit(1, 256)[0]).color  # [h, w, 3] on white
Image.fromarray((picture.clamp(0, 1) * 255).byte().numpy()).save(sys.argv[2])
