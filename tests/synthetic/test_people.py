"""Promises of random people."""

import numpy as np

from pipeline.faces.makehuman import Head
from pipeline.synthetic.people import sample_identity


def test_people_differ_and_a_seed_repeats_a_person():
    a, b, again = (sample_identity(np.random.default_rng(s)) for s in (1, 2, 1))
    assert a == again
    assert a != b
    assert np.abs(Head(a).neutral - Head(b).neutral).max() > 0.003


def test_all_people_are_of_human_size():
    rng = np.random.default_rng(5)
    for _ in range(25):
        p = Head(sample_identity(rng))
        marks = p.landmarks(p.neutral)
        assert 0.1 < np.ptp(marks[:17, 0]) < 0.18
        assert 0.045 < marks[42:48, 0].mean() - marks[36:42, 0].mean() < 0.08


def test_hair_colours_are_natural():
    rng = np.random.default_rng(6)
    colors = np.array([sample_identity(rng).hair_color for _ in range(200)])
    luminance = colors @ [0.2126, 0.7152, 0.0722]
    assert luminance.max() < 0.9
    assert np.median(luminance) < 0.08
    assert (colors[:, 0] >= colors[:, 2] * 0.75).all()  # never blue
