"""Promises of the checks of a capture's geometry."""

import torch

from pipeline.core.types import Camera
from pipeline.tracking.checks import geometry_problems, overlap
from tests.captures.studio import shoot


def test_a_true_mesh_covers_the_matte_and_false_ones_do_not():
    studio = shoot(supersample=2)
    camera, H, matte = studio.rig[1], studio.head_to_world[1], studio.frames[1][1].alpha
    vertices = studio.frames[1][1].vertices
    mesh = studio.in_world(vertices[vertices[:, 1] > -0.13], 1)  # without the shoulders
    assert geometry_problems(camera, head_to_world=H, mesh=mesh, matte=matte) == []
    assert overlap(camera, mesh, matte) > 0.6
    wrong = {
        "millimetres": mesh * 1000,
        "metres taken for millimetres": mesh / 1000,
        "moved by 12 cm": mesh + 0.12 * camera.world_to_camera[0, :3].numpy(),
    }
    for name, bad in wrong.items():
        assert geometry_problems(camera, mesh=bad, matte=matte), name
    inverse = torch.linalg.inv(camera.world_to_camera)
    inverted = Camera(inverse, camera.K, camera.width, camera.height)
    assert geometry_problems(inverted, mesh=mesh, matte=matte)
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1])).double()
    opengl = Camera(flip @ camera.world_to_camera, camera.K, camera.width, camera.height)
    assert geometry_problems(opengl, mesh=mesh, matte=matte)
    far = H.copy()
    far[:3, 3] *= 1000
    far[0, 3] += 5
    assert "outside the picture" in geometry_problems(camera, head_to_world=far)[0]
