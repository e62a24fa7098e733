"""Which sizes a picture goes through, and that it comes back where it was."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from lsb.pictures.geometry import Canvas, Frame, Geometry, Size, frame_of, sigma_scale
from lsb.pictures.images import from_square, to_square

SD, SD_2, EMOJI, TINY = Canvas(512, 64), Canvas(768, 64), Canvas(64, 16), Canvas(32, 8)
CANVASES = st.sampled_from([SD, SD_2, EMOJI, TINY, Canvas(64, 64), Canvas(33, 4)])
SIDES = st.integers(1, 5000)
AREAS: st.SearchStrategy[Any] = st.just("native") | st.integers(1024, 2_000_000)
LETTERBOX = Geometry(fit="letterbox")


def pattern(size: Size, seed: int = 0) -> Image.Image:
    """Blobs of all sizes down to a few pixels, different everywhere."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    small = Image.fromarray(noise[: max(1, size[1] // 6), : max(1, size[0] // 6)])
    return small.resize(size, Image.Resampling.BICUBIC)


def is_near(pixels: int, exact: float) -> bool:
    return abs(pixels - exact) <= 0.5 or pixels == 1 > exact


@given(SIDES, SIDES, AREAS, CANVASES)
@settings(max_examples=400)
def test_what_holds_of_every_frame(width: int, height: int, area: Any, canvas: Canvas) -> None:
    frame = frame_of((width, height), Geometry(area=area), canvas)
    assert frame.output == frame.source == (width, height)
    assert not frame.limited
    added = [given - seen for given, seen in zip(frame.working, frame.content, strict=True)]
    assert all(side % canvas.stride == 0 for side in frame.working)
    assert all(0 <= pixels < canvas.stride for pixels in added)
    assert min(added) == 0
    assert all(side >= 1 for side in frame.content)
    # Aspect: of one side, a whole number of strides, follows the other, to half a pixel, or one pixel.
    (seen_width, seen_height), stride = frame.content, canvas.stride
    assert (seen_width % stride == 0 and is_near(seen_height, seen_width * height / width)) or (
        seen_height % stride == 0 and is_near(seen_width, seen_height * width / height)
    )
    # Area: about what was asked for, at least a square of one stride, however long the picture is.
    wanted = canvas.side**2 if area == "native" else area
    assert frame.working[0] * frame.working[1] <= max(2 * wanted, canvas.stride**2)
    assert frame == frame_of((width, height), Geometry(area=area), canvas)
    assert frame_of((height, width), Geometry(area=area), canvas).working == frame.working[::-1]


@pytest.mark.parametrize(("canvas", "low", "high"), [(SD, 0.9, 1.13), (SD_2, 0.92, 1.12), (EMOJI, 0.93, 1.32)])
@given(st.integers(200, 5000), st.floats(1 / 3, 3))
def test_an_ordinary_picture_s_area_is_about_the_model_s_own(
    canvas: Canvas, low: float, high: float, width: int, aspect: float
) -> None:
    frame = frame_of((width, max(1, round(width / aspect))), Geometry(), canvas)
    assert low <= frame.working[0] * frame.working[1] / canvas.side**2 <= high
    assert frame.content[0] * frame.content[1] / canvas.side**2 >= low - 0.08


@pytest.mark.parametrize(
    ("size", "canvas", "content", "working"),
    [
        ((4000, 3000), SD, (576, 432), (576, 448)),
        ((3000, 4000), SD, (432, 576), (448, 576)),
        ((1920, 1080), SD, (683, 384), (704, 384)),
        ((1920, 1080), SD_2, (1024, 576), (1024, 576)),
        ((100, 100), SD, (512, 512), (512, 512)),
        ((1, 1), SD, (512, 512), (512, 512)),
        ((1, 4000), SD, (1, 4096), (64, 4096)),
        ((4000, 3), SD, (4096, 3), (4096, 64)),
        ((4000, 3), EMOJI, (256, 1), (256, 16)),
        ((4000, 3000), EMOJI, (80, 60), (80, 64)),
        ((7, 3), Canvas(64, 64), (64, 27), (64, 64)),
    ],
)
def test_sizes_that_are_known(size: Size, canvas: Canvas, content: Size, working: Size) -> None:
    frame = frame_of(size, Geometry(), canvas)
    assert (frame.content, frame.working, frame.output) == (content, working, size)


@pytest.mark.parametrize("canvas", [SD, SD_2, EMOJI, TINY, Canvas(33, 4)])
def test_a_square_of_the_model_s_size_passes_unchanged(canvas: Canvas) -> None:
    picture = pattern((canvas.side, canvas.side))
    frame = frame_of(picture.size, Geometry(), canvas)
    if canvas.side % canvas.stride == 0:
        assert frame.prepare(picture).tobytes() == picture.tobytes()
    assert frame.finish(frame.prepare(picture)).size == picture.size
    if canvas.side % canvas.stride == 0:
        assert frame.finish(frame.prepare(picture)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 3), (2, 1), (64, 64), (33, 64), (640, 480), (5, 900)])
def test_a_letterbox_is_what_it_was(size: Size) -> None:
    picture = pattern(size)
    frame = frame_of(size, LETTERBOX, EMOJI)
    square, box = to_square(picture, 64)
    assert frame.prepare(picture).tobytes() == square.tobytes()
    assert frame.finish(square).tobytes() == from_square(square, box).tobytes()
    assert (frame.working, frame.output, frame.offset) == ((64, 64), from_square(square, box).size, (box.left, box.top))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 3), (640, 480), (37, 91), (8, 9)])
def test_what_is_added_is_the_mirrored_edge(size: Size) -> None:
    picture = pattern(size)
    frame = frame_of(size, Geometry(), EMOJI)
    given = np.asarray(frame.prepare(picture))
    width, height = frame.content
    assert given.shape == (*frame.working[::-1], 3)
    columns = [min(place % (2 * width), 2 * width - 1 - place % (2 * width)) for place in range(frame.working[0])]
    rows = [min(place % (2 * height), 2 * height - 1 - place % (2 * height)) for place in range(frame.working[1])]
    assert (given == given[:height, :width][rows][:, columns]).all()
    assert frame.finish(frame.prepare(picture)).size == size


def averaged(image: Image.Image, factor: int) -> Image.Image:
    """A linear stand-in for a model: averages of `factor` x `factor` pixels, bilinear up again."""
    small = image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BILINEAR)


def shift(one: Image.Image, other: Image.Image, finest: float) -> tuple[float, float]:
    """By how many pixels, down and to the right, `other` is `one` moved.

    Phase correlation: a shift turns the phase of each wave in proportion to its frequency; the slope is fitted to waves
    of at least `finest` pixels, weighted by their strength.
    """
    a, b = (np.asarray(image.convert("L"), np.float64) for image in (one, other))
    window = np.outer(*(np.hanning(length) for length in a.shape))
    cross = np.fft.fft2((b - b.mean()) * window) * np.fft.fft2((a - a.mean()) * window).conj()
    waves = np.stack(np.meshgrid(*(np.fft.fftfreq(length) for length in a.shape), indexing="ij"), -1)
    used = (np.hypot(waves[..., 0], waves[..., 1]) < 1 / finest) & (np.abs(cross) > 1e-3 * np.abs(cross).max())
    weights = np.sqrt(np.abs(cross[used]))
    turned = -np.angle(cross[used]) / (2 * np.pi)
    (down, right), *_ = np.linalg.lstsq(waves[used] * weights[:, None], turned * weights, rcond=None)
    return float(down), float(right)


def moved(image: Image.Image, right: int, down: int) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(image), (down, right), (0, 1)))


def test_the_ruler_sees_a_shift() -> None:
    picture = pattern((320, 200))
    assert shift(picture, moved(picture, 3, -2), 20) == pytest.approx((-2, 3), abs=0.1)
    zoomed = picture.resize((326, 204), Image.Resampling.BICUBIC).crop((0, 0, 320, 200))
    assert max(map(abs, shift(picture, zoomed, 20))) > 1


LARGE = [
    (512, 512),
    (640, 480),
    (481, 641),
    (1600, 901),
    (90, 61),
    (300, 1203),
    (1000, 333),
    (1024, 1023),
    (2048, 1365),
]
SMALL = [(64, 64), (90, 61), (61, 90), (128, 128), (150, 100), (81, 243)]


def blobs(frame: Frame, factor: int) -> tuple[Image.Image, float]:
    """A picture of what a model that takes `factor` pixels together can tell apart, and its finest waves."""
    grain = ceil(3 * factor * max(1.0, frame.scale))
    width, height = frame.source
    coarse = np.random.default_rng(0).integers(0, 256, (height // grain + 2, width // grain + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(frame.source, Image.Resampling.BICUBIC), 2 * grain


@pytest.mark.parametrize(
    ("size", "canvas", "factor"), [*((size, SD, 8) for size in LARGE), *((size, EMOJI, 4) for size in SMALL)]
)
def test_the_output_lies_where_the_source_does(size: Size, canvas: Canvas, factor: int) -> None:
    frame = frame_of(size, Geometry(), canvas)
    picture, finest = blobs(frame, factor)
    output = frame.finish(averaged(frame.prepare(picture), factor))
    assert output.size == size
    assert max(map(abs, shift(picture, output, finest))) <= 0.5


@pytest.mark.parametrize("canvas", [SD, EMOJI])
@pytest.mark.parametrize("size", [*LARGE, *SMALL])
def test_the_way_there_and_back_moves_nothing(size: Size, canvas: Canvas) -> None:
    """However much is enlarged: a hundredth of a pixel of the model's, or less."""
    frame = frame_of(size, Geometry(), canvas)
    picture, finest = blobs(frame, 4)
    there_and_back = frame.finish(frame.prepare(picture))
    assert max(map(abs, shift(picture, there_and_back, finest))) <= 0.01 * max(1.0, frame.scale)


@pytest.mark.parametrize("size", [(640, 480), (4000, 1001), (50, 50)])
def test_no_edge_is_lost_or_flat(size: Size) -> None:
    """A ramp comes back as a ramp: nothing is cut off, and the last rows and columns are not those of a ground."""
    ramp = np.linspace(0, 255, size[0])[None, :, None] * np.ones((size[1], 1, 3))
    picture = Image.fromarray(ramp.round().astype(np.uint8))
    for turned in (picture, picture.transpose(Image.Transpose.ROTATE_90)):
        frame = frame_of(turned.size, Geometry(), SD)
        back = np.asarray(frame.finish(frame.prepare(turned)), int)
        assert np.abs(back - np.asarray(turned, int)).max() <= 4


def test_output_at_the_model_s_size() -> None:
    frame = frame_of((4000, 3000), Geometry(output="model"), SD)
    assert (frame.output, frame.scale, frame.limited) == (frame.content, 1.0, False)


@pytest.mark.parametrize(
    ("size", "most", "output", "limited"),
    [
        ((4000, 3000), 4, (2304, 1728), True),
        ((2304, 1728), 4, (2304, 1728), False),
        ((4000, 1), 1, (4000, 1), False),
        ((40_000, 1), 1, (4096, 1), True),
        ((100, 80), 1, (100, 80), False),
    ],
)
def test_an_output_is_enlarged_at_most_so_much(size: Size, most: float, output: Size, limited: bool) -> None:
    frame = frame_of(size, Geometry(max_scale=most), SD)
    assert (frame.output, frame.limited) == (output, limited)
    assert frame.scale <= most


def test_sigmas_are_meant_at_the_model_s_own_area() -> None:
    assert sigma_scale(Geometry(), SD) == sigma_scale(LETTERBOX, SD) == 1.0
    assert sigma_scale(Geometry(area=512 * 512), SD) == 1.0
    assert sigma_scale(Geometry(area=4 * 512 * 512), SD) == 2.0
    assert sigma_scale(Geometry(area=512 * 512), EMOJI) == 8.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"area": "large"}, "must be native, or pixels within"),
        ({"area": 1000}, "must be native, or pixels within"),
        ({"max_scale": 0.5}, "greater than or equal to 1"),
        ({"fit": "cover"}, "'aspect' or 'letterbox'"),
        ({"fit": "letterbox", "area": 90_000}, "area is for fit: aspect; leave it out"),
        ({"fit": "letterbox", "output": "model"}, "output is for fit: aspect; leave it out"),
        ({"fit": "letterbox", "max_scale": 2}, "max_scale is for fit: aspect; leave it out"),
    ],
)
def test_what_cannot_be_asked_for(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Geometry.model_validate(given)
    assert len(caught.value.errors()) == 1


@pytest.mark.parametrize(
    ("geometry", "trace"),
    [
        (LETTERBOX, None),
        (Geometry(), {"fit": "aspect"}),
        (Geometry(fit="aspect", area="native", output="source", max_scale=None), {"fit": "aspect"}),
        (Geometry(area=90_000, max_scale=8), {"fit": "aspect", "area": 90_000, "max_scale": 8.0}),
    ],
)
def test_what_it_leaves_in_a_transform(geometry: Geometry, trace: dict[str, Any] | None) -> None:
    assert geometry.trace == trace
    assert Geometry.of_transform({"geometry": trace} if trace else {}) == geometry


def test_what_is_seen_is_all_that_learning_depends_on() -> None:
    seen: Callable[..., Geometry] = lambda **given: Geometry(**given).as_seen  # noqa: E731
    assert seen(output="model") == seen(max_scale=3) == seen() != seen(area=90_000)
    assert LETTERBOX.as_seen == LETTERBOX != seen()


def test_frames_of_pictures_that_were_turned_are_turned() -> None:
    wide, tall = (frame_of(size, Geometry(), SD) for size in ((900, 410), (410, 900)))
    assert wide == Frame((900, 410), tall.content[::-1], tall.working[::-1], (900, 410))
