"""The rasteriser against hand-made triangles and a ray-tracing twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import ShapeError
from pipeline.core.srgb import encode, linearize
from pipeline.core.types import Camera
from pipeline.synthetic.raster import Layer, draw, draw_views, vertex_normals
from pipeline.synthetic.shading import (
    Lights,
    bleed_colors,
    prepare_texture,
    sample_lights,
)

SIZE = 16
F32 = np.float32
# All light is ambient and white: a surface shows its own colour, whatever its normal.
EVEN = Lights(
    np.array([[0, 0, 1]], F32), np.zeros((1, 3), F32), np.full(3, 0.7, F32), np.full(3, 0.7, F32)
)


def camera(size=SIZE, focal=100.0, distance=1.0):
    """In front of the face at (0, 0, distance), looking along -z; the head's y points up."""
    E = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    E[2, 3] = distance
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Camera(E, K, size, size)


def flat(color, alpha=255):
    return prepare_texture(np.full((4, 4, 4), [*color, alpha], np.uint8))


def layer(corners, faces=((0, 1, 2),), *, texture=None, uvs=None, kind="opaque", **more):
    corners = np.array(corners, F32)
    return Layer(
        vertices=corners,
        faces=np.array(faces, np.int32),
        uvs=np.zeros((len(corners), 2), F32) if uvs is None else np.array(uvs, F32),
        uv_faces=np.array(faces, np.int32),
        texture=flat((255, 255, 255)) if texture is None else texture,
        tint=np.array(more.pop("tint", (1, 1, 1)), F32),
        occlusion=np.ones(len(corners), F32),
        kind=kind,
        specular=0.0,
        gloss=10.0,
        cull=more.pop("cull", True),
        **more,
    )


def at_pixels(points, z=0.0, view=None):
    """Head-frame points at height z that project to these pixels of `camera()`."""
    view = view or camera()
    points = np.array(points, float)
    depth = float(view.world_to_camera[2, 3]) - z
    focal, middle = float(view.K[0, 0]), float(view.K[0, 2])
    x, y = (points[:, 0] - middle) * depth / focal, -(points[:, 1] - middle) * depth / focal
    return np.stack([x, y, np.full(len(points), z)], axis=-1)


def square(color, alpha=255, z=0.0, half=0.5, **more):
    corners = [[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]]
    return layer(corners, [[0, 1, 2], [0, 2, 3]], texture=flat(color, alpha), **more)


def trace(tri, uv, view, step=1):
    """Each pixel's depth and texture coordinate on one triangle, by solving for the ray."""
    E, K = view.world_to_camera.double().numpy(), view.K.double().numpy()
    p = tri.astype(float) @ E[:3, :3].T + E[:3, 3]
    y, x = np.mgrid[: view.height : step, : view.width : step] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    # a + s (b - a) + t (c - a) = d ray
    lhs = np.empty((*x.shape, 3, 3))
    lhs[..., 0], lhs[..., 1], lhs[..., 2] = p[1] - p[0], p[2] - p[0], -rays
    s, t, d = np.linalg.solve(lhs, np.broadcast_to(-p[0], rays.shape)[..., None])[..., 0].T
    s, t, d = s.T, t.T, d.T
    inside = (s >= 0) & (t >= 0) & (s + t <= 1)
    weights = np.stack([1 - s - t, s, t], -1)
    return inside, np.where(inside, d, 0), weights @ np.array(uv, float)


def test_an_empty_scene_is_white_and_has_no_depth():
    rgb, alpha, depth = draw([], camera(), EVEN)
    assert (rgb == 255).all() and not alpha.any() and not depth.any()
    assert (rgb.dtype, alpha.dtype, depth.dtype) == (np.uint8, np.uint8, F32)
    assert rgb.shape == (SIZE, SIZE, 3)


def test_a_triangle_covers_the_pixels_whose_centres_it_holds():
    corners = at_pixels([(2, 2), (2, 7.9), (7.9, 2)])
    _, alpha, _ = draw([layer(corners)], camera(), EVEN, supersample=1)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    assert np.array_equal(alpha == 255, (x > 2) & (y > 2) & (x + y < 9.9))
    assert set(np.unique(alpha)) == {0, 255}


def test_triangles_that_share_an_edge_leave_no_gap_and_no_overlap():
    # A fan around a pixel centre, with edges through many others; half transparent, so that a
    # sample in two triangles or in none would show.
    rim = [(1, 1), (8.5, 1.5), (15, 1), (14.5, 8.5), (15, 15), (8.5, 15), (1, 15), (2, 8.5)]
    corners = at_pixels([(8.5, 8.5), *rim])
    faces = [[0, 1 + (i + 1) % 8, 1 + i] for i in range(8)]
    fan = layer(corners, faces, texture=flat((90, 90, 90), 128), kind="card", cull=False)
    _, alpha, _ = draw([fan], camera(), EVEN, supersample=1)
    assert set(np.unique(alpha)) == {0, 128}
    assert (alpha[2:14, 2:14] == 128).all()


def test_the_nearer_surface_hides_the_farther_in_any_order():
    near, far = square((200, 0, 0), z=0.1), square((0, 0, 200), z=-0.1)
    for layers in ([near, far], [far, near]):
        rgb, _, depth = draw(layers, camera(), EVEN)
        assert (rgb[..., 0] > 100).all() and (rgb[..., 2] == 0).all()
        assert np.allclose(depth, 0.9, atol=1e-5)


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_depth_on_a_tilted_plane_is_that_of_the_pixel_s_ray(supersample):
    view = camera()
    tri = np.array([[-0.5, -0.5, -0.3], [0.6, -0.5, 0.3], [0.0, 0.7, 0.1]], F32)
    inside, wanted, _ = trace(tri, np.zeros((3, 2)), view)
    _, alpha, depth = draw([layer(tri)], view, EVEN, supersample=supersample)
    assert inside.all() and (alpha == 255).all()
    assert np.allclose(depth, wanted, rtol=2e-5)


def test_texture_coordinates_are_perspective_correct():
    view = camera(size=32, focal=40.0)
    tri = np.array([[-0.3, -0.3, 0.4], [0.6, -0.35, -0.8], [-0.1, 0.6, -0.5]], F32)
    uv = [[0.1, 0.2], [0.9, 0.4], [0.3, 0.95]]
    n = 256
    v, u = (np.mgrid[:n, :n] + 0.5) / n
    ramp = np.zeros((n, n, 4), np.uint8)
    # Linear in the light, so that smaller copies of the texture hold the same ramp.
    ramp[..., 0], ramp[..., 1] = np.rint(255 * encode(u)), np.rint(255 * encode(v))
    ramp[..., 3] = 255
    inside, _, wanted = trace(tri, uv, view)
    rgb, alpha, _ = draw(
        [layer(tri, texture=prepare_texture(ramp), uvs=uv)], view, EVEN, supersample=1
    )
    assert np.array_equal(alpha > 0, inside) and inside.sum() > 100
    seen = linearize(rgb[inside][:, :2] / 255) / 0.7
    assert np.abs(seen - wanted[inside]).max() < 0.015
    # The wrong way, without perspective, is off by much more than that.
    assert np.ptp(trace(tri, uv, view)[1][inside]) > 0.3


def test_a_card_blends_over_the_surface_behind_it_in_linear_light():
    skin = square((200, 150, 100))
    card = square((40, 40, 40), alpha=128, z=0.05, kind="card")
    rgb, alpha, depth = draw([card, skin], camera(), EVEN)
    a = 128 / 255
    light = linearize(np.array([200, 150, 100]) / 255) * (1 - a) + a * linearize(40 / 255)
    assert (alpha == 255).all()
    assert np.abs(rgb - 255 * encode(0.7 * light)).max() < 1
    # Just over half of what is behind is hidden, so the card's depth counts.
    assert np.allclose(depth, 0.95, atol=1e-4)


def test_a_thin_card_leaves_the_depth_of_what_is_behind_it():
    card = square((40, 40, 40), alpha=100, z=0.05, kind="card")
    _, alpha, depth = draw([card, square((200, 150, 100))], camera(), EVEN)
    assert np.allclose(depth, 1.0, atol=1e-5) and (alpha == 255).all()
    _, alpha, depth = draw([card], camera(), EVEN)
    assert not depth.any() and (alpha == 100).all()


def test_cards_blend_from_the_nearest_to_the_farthest_whatever_their_layer():
    red = square((200, 0, 0), alpha=160, z=0.1, kind="card")
    blue = square((0, 0, 200), alpha=160, z=0.0, kind="card")
    green = square((0, 200, 0), alpha=160, z=-0.1, kind="card")
    pictures = [
        draw(cards, camera(), EVEN)[0] for cards in ([red, blue, green], [green, blue, red])
    ]
    assert np.array_equal(*pictures)
    r, g, b = pictures[0][8, 8].astype(int)
    assert r > b > g


def test_a_card_is_seen_a_little_behind_the_skin_but_not_far():
    skin = square((200, 200, 200))
    for z, shown in ((0.01, True), (-0.001, True), (-0.004, False)):
        lash = square((0, 0, 0), z=z, kind="card")
        rgb, _, _ = draw([skin, lash], camera(), EVEN)
        assert ((rgb == 0).all()) == shown, z


def test_edges_are_soft_and_the_picture_is_composited_on_white_by_its_alpha():
    # The left edge lies in the middle of pixel 4.
    corners = at_pixels([(4.5, -20), (4.5, 40), (60, 10)])
    dark = layer(corners, texture=flat((60, 60, 60)))
    rgb, alpha, depth = draw([dark], camera(), EVEN)
    assert (alpha[:, :4] == 0).all() and (alpha[:, 5:] == 255).all()
    assert (alpha[:, 4] == 128).all() and (depth[:, 4] > 0).all()
    head, a = rgb[8, 8].astype(float), 128 / 255
    assert np.abs(rgb[8, 4] - (a * head + (1 - a) * 255)).max() <= 0.51


def test_a_pixel_less_than_half_covered_has_no_depth():
    corners = at_pixels([(4.25, 4.0), (4.25, 4.5), (4.75, 4.25)])
    _, alpha, depth = draw([layer(corners)], camera(), EVEN)
    assert alpha[4, 4] == 64 and not depth.any()


def test_a_triangle_with_a_corner_behind_the_camera_is_dropped():
    whole = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]]
    reaching = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 1.2]]
    close = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0.96]]
    for kind in ("opaque", "card"):
        assert draw([layer(whole, kind=kind)], camera(), EVEN)[1].any()
        for corners in (reaching, close):
            assert not draw([layer(corners, kind=kind)], camera(), EVEN)[1].any()


def test_back_faces_are_dropped_only_where_asked():
    front = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]]
    back = front[::-1]
    for kind in ("opaque", "card"):
        assert draw([layer(front, kind=kind)], camera(), EVEN)[1].any()
        assert not draw([layer(back, kind=kind)], camera(), EVEN)[1].any()
        assert draw([layer(back, kind=kind, cull=False)], camera(), EVEN)[1].any()


def test_light_from_the_front_reaches_both_sides_of_a_card():
    lamp = replace(
        EVEN,
        colors=np.full((1, 3), 0.7, F32),
        upper=np.zeros(3, F32),
        lower=np.zeros(3, F32),
    )
    front = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]]
    lit = [
        draw([layer(corners, kind="card", cull=False)], camera(), lamp)[0][8, 8, 0]
        for corners in (front, front[::-1])
    ]
    assert lit[0] == lit[1] == round(255 * float(encode(np.array(0.7))))


def test_a_lamp_lights_the_side_that_faces_it_and_a_shine_shows_its_reflection():
    lamp = Lights(
        np.array([[1, 0, 0]], F32), np.ones((1, 3), F32), np.zeros(3, F32), np.zeros(3, F32)
    )
    left = square((128, 128, 128))
    side = replace(left, normals=np.tile(np.array([[1, 0, 0]], F32), (4, 1)))
    away = replace(left, normals=np.tile(np.array([[-1, 0, 0]], F32), (4, 1)))
    assert draw([side], camera(), lamp)[0].min() > 100
    assert draw([away], camera(), lamp)[0].max() == 0
    halfway = replace(
        left, normals=np.tile(np.array([[0.5**0.5, 0, 0.5**0.5]], F32), (4, 1)), gloss=60.0
    )
    shiny = replace(halfway, specular=0.3)
    assert draw([shiny], camera(), lamp)[0][8, 8, 0] > draw([halfway], camera(), lamp)[0][8, 8, 0]


def test_brightness_never_leaves_the_range():
    bright = replace(EVEN, upper=np.full(3, 9, F32), lower=np.full(3, 9, F32))
    rgb, _, _ = draw([square((255, 255, 255))], camera(), bright)
    assert rgb.min() > 245 and rgb.max() <= 255


def test_occluded_vertices_are_darker():
    open_, closed = square((200, 200, 200)), square((200, 200, 200))
    closed = replace(closed, occlusion=np.zeros(4, F32))
    seen = [linearize(draw([s], camera(), EVEN)[0][8, 8] / 255) for s in (open_, closed)]
    assert np.allclose(seen[1] / seen[0], 0.25, atol=0.01)


def test_views_drawn_together_equal_views_drawn_alone():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.05, (60, 3))
    mesh = layer(points, rng.permutation(60).reshape(20, 3), cull=False)
    hair = layer(
        points + 0.02, rng.permutation(60).reshape(20, 3), texture=flat((9, 9, 9), 99), kind="card"
    )
    both = [camera(distance=1.0), camera(distance=0.8)]
    cameras = Camera(
        torch.stack([c.world_to_camera for c in both]), torch.stack([c.K for c in both]), SIZE, SIZE
    )
    for one, together in zip(both, draw_views([mesh, hair], cameras, EVEN)):
        for a, b in zip(draw([mesh, hair], one, EVEN), together):
            assert np.array_equal(a, b)
    with pytest.raises(ShapeError, match="one camera"):
        draw([mesh], cameras, EVEN)


def test_normals_point_out_of_counter_clockwise_faces_and_are_weighted_by_area():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3]], F32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    normals = vertex_normals(corners, faces)
    assert np.allclose(normals[1], [0, 0, 1])
    assert np.allclose(normals[3], [1, 0, 0])
    assert np.allclose(normals[0], np.array([3, 0, 1]) / 10**0.5)


def test_colour_bleeds_under_transparent_texels_so_hair_has_no_dark_fringe():
    texture = np.zeros((8, 8, 4), np.uint8)
    texture[:, :3] = [180, 120, 60, 255]
    bled = bleed_colors(texture)
    assert (bled[..., :3] == [180, 120, 60]).all()
    assert np.array_equal(bled[..., 3], texture[..., 3])
    # A card of that texture, magnified: where it fades out, its colour stays.
    corners = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]]
    hair = layer(
        corners,
        [[0, 1, 2], [0, 2, 3]],
        texture=prepare_texture(texture),
        uvs=[[0, 1], [1, 1], [1, 0], [0, 0]],
        kind="card",
    )
    rgb, alpha, _ = draw([hair], camera(focal=14.0), EVEN)
    fading = (alpha > 40) & (alpha < 220)
    assert fading.any()
    a = alpha[fading][:, None] / 255
    head = (rgb[fading] / 255 - (1 - a)) / a
    wanted = encode(0.7 * linearize(np.array([180, 120, 60]) / 255))
    assert np.abs(head - wanted).max() < 0.03


def test_a_texture_far_away_is_averaged_instead_of_aliased():
    y, x = np.mgrid[:256, :256]
    stripes = np.zeros((256, 256, 4), np.uint8)
    stripes[..., :3] = (255 * (x % 2))[..., None]
    stripes[..., 3] = 255
    corners = [[-0.05, -0.05, 0], [0.05, -0.05, 0], [0.05, 0.05, 0], [-0.05, 0.05, 0]]
    wall = layer(
        corners,
        [[0, 1, 2], [0, 2, 3]],
        texture=prepare_texture(stripes),
        uvs=[[0, 1], [1, 1], [1, 0], [0, 0]],
    )
    rgb, alpha, _ = draw([wall], camera(), EVEN)
    whole = rgb[alpha == 255].astype(int)
    assert len(whole) > 50
    assert np.abs(whole - 255 * encode(np.array(0.35))).max() < 3


def test_studio_lights_are_near_white_and_follow_the_seed():
    for seed in range(20):
        lights = sample_lights(np.random.default_rng(seed), outside=0.0)
        again = sample_lights(np.random.default_rng(seed), outside=0.0)
        assert np.array_equal(lights.colors, again.colors)
        assert np.allclose(np.linalg.norm(lights.directions, axis=1), 1, atol=1e-5)
        rgb, _, _ = draw([square((128, 128, 128))], camera(), lights)
        assert rgb.min() > 85 and rgb.max() < 165
        assert np.ptp(rgb[8, 8].astype(int)) < 30


def test_photographed_places_light_a_face_well_and_from_one_side():
    left_to_right: list[float] = []
    for seed in range(30):
        lights = sample_lights(np.random.default_rng(seed), outside=1.0)
        assert np.allclose(np.linalg.norm(lights.directions, axis=1), 1, atol=1e-5)
        assert lights.upper.min() >= 0 and lights.colors.min() >= 0
        faces: list[np.ndarray] = []
        for degrees in (-40, 0, 40):
            turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
            seen = replace(lights, directions=np.float32(lights.directions @ turn.T))
            faces.append(draw([square((128, 128, 128))], camera(), seen)[0][8, 8].astype(int))
        assert 40 < min(f.min() for f in faces) and max(f.max() for f in faces) < 230
        assert np.ptp(np.mean(faces, 0)) < 70  # a cast is balanced, though not to nothing
        left_to_right.append(float(faces[0].mean() - faces[2].mean()))
    assert np.std(left_to_right) > 8


def test_a_layer_refuses_arrays_that_would_be_read_outside():
    good = square((1, 2, 3))
    with pytest.raises(ShapeError, match="faces point outside"):
        replace(good, faces=good.faces + 1)
    with pytest.raises(ShapeError, match="vertices float32"):
        replace(good, vertices=good.vertices.astype(float))
    with pytest.raises(ShapeError, match="uint8"):
        prepare_texture(np.zeros((4, 4, 3), np.uint8))


def test_solid_cards_that_cross_each_other_are_sorted_pixel_by_pixel():
    # The centre of the slanted card is nearer, but its left half lies behind the upright one.
    slant = [[-1.0, -1.0, -0.5], [1.6, -1.0, 0.8], [0.3, 1.5, 0.15]]
    red = layer(slant, texture=flat((200, 0, 0)), kind="card")
    blue = square((0, 0, 200), kind="card")
    rgb, _, depth = draw([red, blue], camera(focal=30.0), EVEN, supersample=1)
    assert rgb[8, 2, 2] > 100 and rgb[8, 2, 0] == 0 and depth[8, 2] == pytest.approx(1, abs=1e-5)
    assert rgb[8, 13, 0] > 100 and rgb[8, 13, 2] == 0 and depth[8, 13] < 1
