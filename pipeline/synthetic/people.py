"""Random people: the shape, skin, eyes, brows, lashes and hair of MakeHuman heads."""

import numpy as np

from pipeline.faces.makehuman import Asset, Identity, load_asset
from pipeline.system.assets import HEAD

EYE_COLORS = (
    "blue", "bluegreen", "brown", "brownlight", "deepblue", "green", "grey", "ice", "lightblue",
)  # fmt: skip
BROW_STYLES = tuple(f"eyebrow{i:03d}" for i in range(1, 13))
LASH_STYLES = ("eyelashes01", "eyelashes02", "eyelashes03", "eyelashes04")
LOPSIDED = ("head-trans-out", "head-angle-out", "mouth-trans-out", "nose-trans-out",
            "neck-trans-out")  # fmt: skip
"""Local morphs that move the middle of the face to one side."""
UNUSUAL = 0.15
"""Share of the people whose hair is of any style, or colour, whoever they are."""
MOODS = ("eyebrows-angle-up", "mouth-angles-up")
"""Local morphs that look like an expression."""


def skin_names() -> tuple[str, ...]:
    """Return the names of all skins: age_origin_sex, with a digit for further ones."""
    return tuple(p.stem.removeprefix("skin_") for p in sorted((HEAD / "textures").glob("skin_*")))


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw a person: any adult age, sex and origin, with a skin and hair that fit.

    The shape lies between two sampled phenotypes of like kind, plus local morphs.
    """
    asset = load_asset()
    known = asset.phenotypes
    first = int(rng.integers(len(asset.phenotype_scores)))
    about = {k: float(v[first]) for k, v in known.items()}
    origins = np.stack([known[k] for k in ("african", "asian", "caucasian")], 1)
    alike = np.abs(known["gender"] - about["gender"]) + np.abs(known["age"] - about["age"])
    alike = alike + np.abs(origins - origins[first]).sum(1)
    second = int(rng.choice(np.argsort(alike)[:12]))
    mix = rng.uniform()
    scores = (1 - mix) * asset.phenotype_scores[first] + mix * asset.phenotype_scores[second]
    # Averaging two people makes them plainer than either; the spread is given back.
    scores = scores / np.sqrt(mix**2 + (1 - mix) ** 2) ** 0.5
    scores = scores.clip(-4, 4)
    female = about["gender"] > 0.5
    age = "young" if about["age"] < 0.75 else "middleage" if about["age"] < 0.9 else "old"
    odds = np.array([about[k] for k in ("african", "asian", "caucasian")]) ** 2
    origin = str(rng.choice(["african", "asian", "caucasian"], p=odds / odds.sum()))
    kind = f"{age}_{origin}_{'female' if female else 'male'}"
    skin = str(rng.choice([n for n in skin_names() if n.startswith(kind)]))
    hair = _sample_hair(rng, female=female, age=age, origin=origin)
    color = _sample_hair_color(rng, age=age, origin=origin)
    brow = np.array(color) * rng.uniform(0.45, 1.0)
    brow = np.minimum(brow, np.array([0.14, 0.11, 0.085]) * rng.uniform(0.7, 1.6))
    brown_only = origin != "caucasian"
    common = ["brown", "brown", "brown", "brownlight"]
    eyes = str(rng.choice(common if brown_only else list(EYE_COLORS)))
    warm = np.array([1.0, 1.02, 1.04]) ** rng.normal(0.4, 0.8)
    tint = rng.uniform(0.86, 1.08) * warm
    if origin == "african":
        # These skins come very dark and very red.
        tint = tint * rng.uniform(1.1, 1.4) * np.array([0.90, 1.07, 1.17])
    # The third and fourth are long and made up.
    lashes = str(rng.choice(LASH_STYLES if female else LASH_STYLES[:2]))
    return Identity(
        phenotype=tuple(float(s) for s in scores),
        morphs=_sample_morphs(rng, asset),
        skin=skin,
        skin_tint=_triple(tint),
        eyes=eyes,
        brows=str(rng.choice(BROW_STYLES)),
        brow_color=_triple(brow),
        lashes=lashes,
        hair=hair,
        hair_color=color,
    )


def _sample_morphs(rng: np.random.Generator, asset: Asset) -> tuple[tuple[str, float], ...]:
    """Draw local morphs: each pair of opposites by one number, both sides nearly alike."""
    sigma = rng.uniform(0.15, 0.22)
    chosen: list[tuple[str, float]] = []
    drawn: dict[str, float] = {}
    for i in range(0, len(asset.morph_names), 2):
        name = asset.morph_names[i]
        base = name[2:] if name[:2] in ("l-", "r-") else name
        if base not in drawn:
            drawn[base] = float(rng.normal(0, sigma))
        value = drawn[base]
        if name != base:
            value += float(rng.normal(0, 0.25 * sigma))
        elif base in LOPSIDED:
            value *= 0.1
        elif base in MOODS:
            value *= 0.5
        value = float(np.clip(value, -0.6, 0.6))
        chosen.append((asset.morph_names[i] if value > 0 else asset.morph_names[i + 1], abs(value)))
    return tuple(chosen)


def _sample_hair(rng: np.random.Generator, *, female: bool, age: str, origin: str) -> str:
    """Draw a hair style; more or less common by sex, none excluded that one meets."""
    if female:
        odds = {"bald": 0.03, "short01": 0.05, "short02": 0.06, "short03": 0.06, "short04": 0.06,
                "bob01": 0.08, "bob02": 0.1, "long01": 0.17, "braid01": 0.1, "ponytail01": 0.2,
                "afro01": 0.05}  # fmt: skip
    else:
        odds = {"bald": 0.16, "short01": 0.2, "short02": 0.2, "short03": 0.16, "short04": 0.18,
                "bob01": 0.0, "bob02": 0.02, "long01": 0.03, "braid01": 0.0, "ponytail01": 0.03,
                "afro01": 0.04}  # fmt: skip
        if age == "old":
            odds["bald"] *= 1.7
    odds["afro01"] *= 5 if origin == "african" else 0.5
    names = list(odds)
    p = np.array([odds[n] for n in names])
    if rng.random() < UNUSUAL:  # what a model has not seen, it takes for what it has
        p = np.ones(len(names))
    return str(rng.choice(names, p=p / p.sum()))


HAIR_COLORS = {
    "black": (0.014, 0.012, 0.011),
    "darkbrown": (0.032, 0.020, 0.013),
    "brown": (0.066, 0.038, 0.022),
    "darkblond": (0.150, 0.096, 0.050),
    "blond": (0.310, 0.205, 0.098),
    "red": (0.150, 0.052, 0.020),
    "grey": (0.200, 0.195, 0.190),
    "white": (0.420, 0.410, 0.395),
}
"""Linear RGB albedos."""


def _sample_hair_color(
    rng: np.random.Generator, *, age: str, origin: str
) -> tuple[float, float, float]:
    """Draw a natural hair colour with a little variation."""
    if rng.random() < UNUSUAL:
        name = str(rng.choice(list(HAIR_COLORS)))
    elif age == "old" and rng.random() < 0.65:
        name = str(rng.choice(["grey", "white"], p=[0.65, 0.35]))
    elif age == "middleage" and rng.random() < 0.12:
        name = "grey"
    elif origin == "caucasian":
        name = str(
            rng.choice(
                ["black", "darkbrown", "brown", "darkblond", "blond", "red"],
                p=[0.1, 0.27, 0.25, 0.16, 0.12, 0.1],
            )
        )
    else:
        name = str(rng.choice(["black", "darkbrown", "brown"], p=[0.7, 0.24, 0.06]))
    return _triple(
        np.array(HAIR_COLORS[name]) * np.exp(rng.normal(0, 0.3)) * np.exp(rng.normal(0, 0.05, 3))
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    """Return three plain floats."""
    a, b, c = (float(x) for x in values)
    return a, b, c
