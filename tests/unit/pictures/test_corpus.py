"""Files of all sorts, and mutants of them: each gives its pixels or its code, whatever is in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lsb.errors import DecodingError, ImageError
from lsb.pictures.decoder import Decoder
from tests.corpus import corpus
from tests.fuzz import mutants, verdict


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def test_there_are_enough() -> None:
    assert len(corpus()) >= 80


@pytest.mark.parametrize("name", corpus())
def test_each_file_has_its_code_or_its_pixels(decoder: Decoder, name: str) -> None:
    case = corpus()[name]
    if case.codes:
        with pytest.raises(ImageError) as caught:
            decoder.decode(case.data)
        assert caught.value.code in case.codes
        return
    found = np.asarray(decoder.decode(case.data)[0])
    if case.pixels is not None:
        expected = case.pixels if case.pixels.ndim == 3 else np.repeat(case.pixels[..., None], 3, axis=2)
        assert found.shape == expected.shape
        assert np.abs(found - expected.astype(float)).mean() <= case.near


@pytest.mark.parametrize(("seed", "count"), [(1, 300), pytest.param(0, 2000, marks=pytest.mark.long)])
def test_mutants_are_pictures_or_refused(decoder: Decoder, seed: int, count: int) -> None:
    """None hangs, none takes more than it may, and none ends the process or is answered with something else."""
    seen = {verdict(decoder, data) for _, data in mutants(seed, count)}
    assert "ok" in seen
    assert {"corrupt", "truncated", "not_an_image"} <= seen


def test_a_mutant_that_ends_the_process_is_told(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(data: bytes) -> None:
        raise DecodingError("decoder_died: it ended", code="decoder_died")

    monkeypatch.setattr(decoder, "decode", die)
    with pytest.raises(DecodingError):
        verdict(decoder, b"x")
