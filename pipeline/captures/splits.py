"""Which people of a data set are held out from training, and which are evaluated."""

from __future__ import annotations

import hashlib

AVA256_VALIDATION = (
    "BDF920", "BXQ083", "CPP930", "DPE040", "GZU008", "NCC597", "NCU289", "NNQ107",
    "ONK818", "PGO261", "TXE513", "UIQ957", "UMQ592", "YIK625", "ZEL435", "ZUS575",
)  # fmt: skip
"""The data set's own public validation list."""
AVA256_EVALUATED = AVA256_VALIDATION[:12]
AVA256_HELD_OUT = (
    *AVA256_VALIDATION,
    "EVY126", "FCT871", "HDZ165", "HOS732", "HVO722", "IBX730", "KTI779", "MVB233", "QNG975",
    "QZP994", "RWS274", "WXT125", "ZEM686", "ZUE409",
)  # fmt: skip
"""People never trained on: the validation list, and of the 240 others the 14 whose names have the
smallest SHA-256. FastGHA holds out 30 as well, but its list is not public: this is another."""

NERSEMBLE_TRAINED = 300 / 425
"""Share of the people that are trained on, as in FastGHA."""


def held_out_ava256(subject: str) -> bool:
    """Say whether a person of Ava-256 is kept from training."""
    return subject in AVA256_HELD_OUT


def held_out_nersemble(subject: str) -> bool:
    """Say whether a person of NeRSemble is kept from training.

    By a hash of the number, so that it does not depend on which people were downloaded. FastGHA
    trains on 300 of 425, but which is not public.
    """
    number = subject.lstrip("0") or "0"
    return _hash(number) >= NERSEMBLE_TRAINED


def _hash(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
