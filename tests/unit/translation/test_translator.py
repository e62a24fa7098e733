"""The translator: pixels depend on the image, not on its company; and on the version, as the golden images hold."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageCms

import lsb
from lsb.bridge.noise import unit_noise
from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError, ImageError, ModelError, PromptError
from lsb.ledger.transform import TRANSFORM_VERSION
from lsb.models.load import load_backbone
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from lsb.pictures.geometry import Geometry
from lsb.pictures.images import pixels_sha256, to_images, to_square, to_tensor
from lsb.translation.engine import PUBLISHED_PREFIX
from lsb.translation.translator import Translator
from tests.bombs import saved
from tests.tiny import tiny_model

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = BridgeSettings(tau=0.6, guidance=3.0, nfe=4)


def picture(number: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Smooth and different for every number; needs no file."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [np.sin(rows / (3 + number % 4) + channel) + np.cos(columns / (2 + number % 5)) for channel in range(3)]
    return Image.fromarray(((np.stack(waves, axis=-1) + 2) * 63).astype(np.uint8))


def pixels(images: list[Image.Image]) -> list[str]:
    return [pixels_sha256(image) for image in images]


@pytest.fixture(scope="module")
def translator(tiny_backbone: StableDiffusion) -> Translator:
    learned = Prompt("a {token} icon", "<3d>", tiny_backbone.table_vectors("3d sun"))
    return Translator(tiny_backbone, Prompt("a flat icon"), learned, SETTINGS, seed="42", batch=4)


@pytest.fixture(scope="module")
def sources() -> list[Image.Image]:
    sizes = [(32, 32), (60, 30), (9, 40), (32, 31), (200, 200), (33, 64), (32, 32)]
    return [picture(number, size) for number, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def results(translator: Translator, sources: list[Image.Image]) -> list[Image.Image]:
    return translator.translate(sources)


def test_results_keep_order_and_size(sources: list[Image.Image], results: list[Image.Image]) -> None:
    assert [image.size for image in results] == [image.size for image in sources]
    assert all(image.mode == "RGB" for image in results)
    assert len(set(pixels(results))) == len(results)


def test_letterboxed_results_keep_the_aspect_and_have_the_model_s_size(
    translator: Translator, sources: list[Image.Image], results: list[Image.Image]
) -> None:
    letterboxed = dataclasses.replace(translator, geometry=Geometry(fit="letterbox")).translate(sources)
    sizes = [(32, 32), (32, 16), (7, 32), (32, 31), (32, 32), (17, 32), (32, 32)]
    assert [image.size for image in letterboxed] == sizes
    # A square of the model's size goes through either unchanged.
    assert pixels([letterboxed[0], letterboxed[6]]) == pixels([results[0], results[6]])


def test_at_the_model_s_size_they_are_what_is_enlarged(
    translator: Translator, sources: list[Image.Image], results: list[Image.Image]
) -> None:
    small = dataclasses.replace(translator, geometry=Geometry(output="model")).translate(sources)
    enlarged = [one.resize(two.size, Image.Resampling.BICUBIC) for one, two in zip(small, results, strict=True)]
    assert pixels(enlarged) == pixels(results)


def test_another_area_moves_every_sigma(tiny_backbone: StableDiffusion) -> None:
    """As many pixels as the model's own four times: the same path with twice the tau."""
    prompts = Prompt("a flat icon"), Prompt("a 3d icon")
    large = Translator(tiny_backbone, *prompts, SETTINGS, geometry=Geometry(area=4 * 32 * 32))
    assert large._engine._method.tau == 2 * SETTINGS.tau
    assert large._engine._method.model_copy(update={"tau": SETTINGS.tau}) == SETTINGS
    assert Translator(tiny_backbone, *prompts, SETTINGS)._engine._method is SETTINGS
    most = 2 * tiny_backbone.sigma_max
    with pytest.raises(BridgeError, match=rf"at this geometry\.area; the largest is {most / 2:.6g}"):
        dataclasses.replace(large, settings=SETTINGS.model_copy(update={"tau": 0.51 * most}))


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 6, 4, 3], [4], [1, 1, 1], [0, 3]])
def test_neither_order_nor_company_nor_padding_changes_a_pixel(
    translator: Translator, sources: list[Image.Image], results: list[Image.Image], order: list[int]
) -> None:
    again = translator.translate([sources[number] for number in order])
    assert pixels(again) == [pixels([results[number]])[0] for number in order]


def profile() -> bytes:
    """sRGB with red and green exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"?XYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"?XYZ", b"gXYZ", 1)


def opened_files() -> dict[str, bytes]:
    colour, alpha = picture(1, (40, 24)), Image.linear_gradient("L").resize((40, 24))
    clear = Image.merge("RGBA", [*colour.split(), alpha])
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.linspace(0, 65535, 960).astype(np.uint16).reshape(24, 40))
    return {
        "turned JPEG": saved(colour, "JPEG", exif=turned),
        "turned PNG": saved(colour, "PNG", exif=turned),
        "turned TIFF": saved(colour, "TIFF", exif=turned),
        "turned WebP": saved(clear, "WEBP", exif=turned, lossless=True),
        "16 bits": saved(deep, "PNG"),
        "16 bits with a clear level": saved(deep, "PNG", transparency=int(np.asarray(deep)[3, 3])),
        "RGBA": saved(clear, "PNG"),
        "LA": saved(clear.convert("LA"), "PNG"),
        "palette": saved(clear.quantize(16), "PNG"),
        "palette with a clear colour": saved(colour.quantize(16), "PNG", transparency=3),
        "CMYK": saved(colour.convert("CMYK"), "JPEG"),
        "profile": saved(colour, "PNG", icc_profile=profile()),
        "CMYK with a profile of another kind": saved(colour.convert("CMYK"), "TIFF", icc_profile=profile()),
        "1 bit": saved(colour.convert("1"), "PNG"),
        "animation": saved(colour, "GIF", save_all=True, append_images=[colour.rotate(90)]),
        "float": saved(Image.fromarray(np.linspace(0, 1, 960, dtype=np.float32).reshape(24, 40)), "TIFF"),
    }


@pytest.mark.parametrize("name", opened_files())
def test_a_file_that_pillow_opened_is_translated_like_its_bytes(translator: Translator, name: str) -> None:
    data = opened_files()[name]
    decoded = lsb.decode(data)[0]
    assert decoded.info == {}
    (expected,) = translator.translate([decoded])
    with Image.open(io.BytesIO(data)) as opened:
        once = translator.translate(opened)
        assert translator.translate([opened])[0].tobytes() == once.tobytes()
    assert once.size == expected.size
    assert once.tobytes() == expected.tobytes()


def test_a_single_image_gives_a_single_image(translator: Translator, sources: list[Image.Image]) -> None:
    assert translator.translate(sources[0]).tobytes() == translator.translate(sources[:1])[0].tobytes()
    digest = "ab" * 32
    alone = translator.translate(sources[0], digest)
    assert alone.tobytes() == translator.translate(sources[:1], [digest])[0].tobytes()
    assert alone.tobytes() != translator.translate(sources[0]).tobytes()


def test_what_cannot_be_an_image_is_refused_in_one_line(translator: Translator) -> None:
    with pytest.raises(ImageError, match="unsupported_depth") as caught:
        translator.translate(Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)))
    assert "\n" not in str(caught.value)
    short = saved(picture(0, (400, 300)), "JPEG")[:-2000]
    with Image.open(io.BytesIO(short)) as cut, pytest.raises(ImageError, match="truncated"):
        translator.translate([cut])
    for wrong in (["a.png"], [np.zeros((4, 4, 3))], "a.png"):
        with pytest.raises(TypeError, match=r"must be a PIL\.Image\.Image, got (str|ndarray)"):
            translator.translate(wrong)  # type: ignore[call-overload]


class Seen:
    """Progress as it is reported."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def start(self, name: str, total: int) -> None:
        self.said.append((f"start {name}", total))

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        self.said.append((name, n))

    def finish(self, name: str) -> None:
        self.said.append((f"finish {name}", 0))


def test_progress_is_reported_batch_by_batch(translator: Translator) -> None:
    pictures = [picture(number) for number in range(5)] + [picture(5, (64, 32))]
    seen = Seen()
    made = translator.translate(pictures, batch=2, progress=seen)
    assert seen.said[0] == ("start translate", 6)
    assert seen.said[1:-1] == [("translate", 2), ("translate", 2), ("translate", 1), ("translate", 1)]
    assert seen.said[-1] == ("finish translate", 0)
    assert pixels(made) == pixels(translator.translate(pictures, batch=2))
    for wrong in (-1, 0):
        with pytest.raises(BridgeError, match=f"batch is {wrong}; it must be at least 1"):
            translator.translate(pictures, batch=wrong)


def test_splitting_the_work_changes_no_pixel(
    translator: Translator, sources: list[Image.Image], results: list[Image.Image]
) -> None:
    apart = translator.translate(sources[:3]) + translator.translate(sources[3:])
    assert pixels(apart) == pixels(results)


def test_another_process_s_random_state_changes_no_pixel(
    translator: Translator, sources: list[Image.Image], results: list[Image.Image]
) -> None:
    torch.manual_seed(1234)
    rebuilt = dataclasses.replace(translator)
    assert pixels(rebuilt.translate(sources)) == pixels(results)


def test_another_batch_shape_is_close(
    translator: Translator, sources: list[Image.Image], results: list[Image.Image]
) -> None:
    other = dataclasses.replace(translator, batch=3).translate(sources)
    for one, two in zip(other, results, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 1


def test_noise_comes_from_seed_and_digest(
    translator: Translator, sources: list[Image.Image], results: list[Image.Image]
) -> None:
    given = [pixels_sha256(image) for image in sources]
    assert pixels(translator.translate(sources, given)) == pixels(results)
    others = [hashlib.sha256(digest.encode()).hexdigest() for digest in given]
    assert not set(pixels(translator.translate(sources, others))) & set(pixels(results))
    other_seed = dataclasses.replace(translator, seed="43").translate(sources)
    assert not set(pixels(other_seed)) & set(pixels(results))
    with pytest.raises(ValueError, match="7 images but 1 digests"):
        translator.translate(sources, given[:1])


def test_nothing_to_do(translator: Translator) -> None:
    assert translator.translate([]) == []


def test_every_part_changes_the_result(translator: Translator, sources: list[Image.Image]) -> None:
    source = sources[:1]
    base = pixels(translator.translate(source))
    for change in (
        {"source": Prompt("a red dog")},
        {"target": Prompt("a red dog")},
        {"settings": SETTINGS.model_copy(update={"guidance": 6.0})},
        {"settings": SETTINGS.model_copy(update={"tau": 0.9})},
    ):
        assert pixels(dataclasses.replace(translator, **change).translate(source)) != base, change


def test_source_and_target_are_not_mixed_up(tiny_backbone: StableDiffusion) -> None:
    """Learned under the same token, they still are two: their order matters, and each alone is itself."""
    rows = tiny_backbone.table_vectors("red")
    one, two = Prompt("{token}", "<s>", 20 * rows), Prompt("{token}", "<s>", -20 * rows)
    there = Translator(tiny_backbone, one, two, SETTINGS).translate([picture(1)])
    back = Translator(tiny_backbone, two, one, SETTINGS).translate([picture(1)])
    same = Translator(tiny_backbone, one, one, SETTINGS).translate([picture(1)])
    assert len({*pixels(there), *pixels(back), *pixels(same)}) == 3


def test_forwards(translator: Translator) -> None:
    assert translator.forwards_per_image == 7
    assert dataclasses.replace(translator, settings=BridgeSettings()).forwards_per_image == 15


def test_bad_requests(translator: Translator) -> None:
    tau_max = 2 * translator.backbone.sigma_max
    with pytest.raises(BridgeError, match=f"the largest is {tau_max:.6g}"):
        dataclasses.replace(translator, settings=BridgeSettings(tau=tau_max * 1.01))
    with pytest.raises(BridgeError, match="batch is 0"):
        dataclasses.replace(translator, batch=0)
    with pytest.raises(PromptError, match="reads at most"):
        dataclasses.replace(translator, target=Prompt("a dog and " * 99))


def test_nan_is_an_error_that_names_the_images(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StableDiffusion.decode

    def spoilt(self: StableDiffusion, latents: torch.Tensor) -> torch.Tensor:
        images = whole(self, latents)
        images[1] = torch.nan
        return images

    monkeypatch.setattr(StableDiffusion, "decode", spoilt)
    with pytest.raises(ModelError, match="NaN for 1 images in float32") as caught:
        translator.translate([picture(0), picture(1), picture(2)])
    assert caught.value.positions == [1]


def test_bfloat16(tiny_folder: Path, translator: Translator, sources: list[Image.Image], results: list) -> None:
    backbone = load_backbone(str(tiny_folder), device="cpu", dtype="bfloat16")
    half = dataclasses.replace(translator, backbone=backbone)
    rough = half.translate(sources)
    assert pixels(half.translate(sources[::-1])) == pixels(rough)[::-1]
    for one, two in zip(rough, results, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).mean() < 4


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A backbone, and the same model's networks, table and conditions straight from diffusers."""
    folder = tiny_model(tmp_path_factory.mktemp(request.param) / "model", request.param, "shifted")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    texts = (PUBLISHED_PREFIX + "a flat icon", "a 3d icon")
    conditions = [pipeline.encode_prompt(text, "cpu", 1, False)[0] for text in texts]
    table = pipeline.scheduler.alphas_cumprod.double()
    return load_backbone(str(folder), device="cpu"), pipeline.unet, pipeline.vae, table, conditions


@pytest.mark.parametrize("tau", [0.5, 2.3])
@pytest.mark.parametrize("nfe", [4, 8, 16])
@torch.no_grad()
def test_published_agrees_with_the_paper_s_algorithm(
    parts: tuple, nfe: int, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published preset against a line-by-line reading of the algorithm, which shares no code with ours."""
    backbone, unet, vae, table, (c_0, c_1) = parts
    v_prediction = backbone._predicts_v
    shifted = torch.cat([torch.ones(1, dtype=torch.float64), table])
    image = picture(3)
    digest, t_0, w = pixels_sha256(image), 0.2, 3.0

    def gauss(purpose: str) -> torch.Tensor:
        return unit_noise((4, 8, 8), seed="5", digest=digest, purpose=purpose).unsqueeze(0)

    def spread(t: float) -> float:
        return tau * math.sqrt(t * (1 - t))

    def network(x: torch.Tensor, t: float, c: torch.Tensor) -> tuple[torch.Tensor, float]:
        k = int((shifted - 1 / (1 + spread(t) ** 2)).abs().argmin())
        a = float(shifted[k])
        y = math.sqrt(a) * x
        out = unet(y, k, encoder_hidden_states=c).sample
        eps = math.sqrt(a) * out + math.sqrt(1 - a) * y if v_prediction else out
        return eps, math.sqrt((1 - a) / a)

    posterior = vae.encode(to_tensor([to_square(image, 32)[0]])).latent_dist
    x_0 = (posterior.mean + posterior.std * gauss("vae") - 0.25) * 0.6
    steps = nfe - 1
    grid = [t_0 + (1 - t_0) * i / steps for i in range(steps + 1)]
    x = (1 - t_0) * x_0 + spread(t_0) * gauss("start")
    for t, t_next in pairwise(grid):
        (eps_0, sigma), (eps_1, _) = network(x, t, c_0), network(x, t, c_1)
        eps = eps_0 if t <= 0.5 else eps_1
        slope = tau * (1 - 2 * t) / (2 * math.sqrt(t * (1 - t)))
        x = x + (t_next - t) * (w * sigma * (eps_0 - eps_1) + slope * eps)
    eps_1, sigma = network(x, grid[-2], c_1)
    a = float(table[19])
    expected = math.sqrt(a) * (x - sigma * eps_1) + math.sqrt(1 - a) * eps_1

    settings = BridgeSettings(preset="published", tau=tau, t0=t_0, guidance=w, nfe=nfe)
    translator = Translator(backbone, Prompt("a flat icon"), Prompt("a 3d icon"), settings, seed="5", batch=1)
    seen: list[torch.Tensor] = []
    with monkeypatch.context() as patch:
        decode = backbone.decode
        patch.setattr(backbone, "decode", lambda latents: seen.append(latents.clone()) or decode(latents))
        (result,) = translator.translate([image])
    assert (seen[0] - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))
    (by_hand,) = to_images(vae.decode(expected / 0.6 + 0.25).sample)
    assert np.abs(np.asarray(result).astype(int) - np.asarray(by_hand)).max() <= 1


def test_published_prefix_gives_way_to_the_prompt_s_own(tiny_backbone: StableDiffusion) -> None:
    settings = BridgeSettings(preset="published", tau=1.0, nfe=3)
    plain, own, explicit = (
        Translator(tiny_backbone, Prompt("a dog", prefix=prefix), Prompt("a cat"), settings).translate([picture(0)])
        for prefix in ("", "red, ", PUBLISHED_PREFIX)
    )
    assert pixels(plain) == pixels(explicit)
    assert pixels(plain) != pixels(own)


GOLDEN_PATHS: dict[str, dict[str, object]] = {
    "aspect": {},
    "default": {},
    "published": {"preset": "published"},
    "multistep": {"solver": "adams_moulton", "grid": "theta", "noise": "mix", "start": "centred"},
}


@pytest.mark.parametrize("name", GOLDEN_PATHS)
def test_golden_images(name: str, tmp_path: Path) -> None:
    """Pixels of this TRANSFORM_VERSION. After a change that means to alter them: raise it, and store new images
    under its number, made by `golden_images` below."""
    stored = GOLDEN / f"{name}-{TRANSFORM_VERSION}.png"
    made = golden_images(name, tmp_path / "model")
    assert stored.exists(), f"no golden images for TRANSFORM_VERSION {TRANSFORM_VERSION}: store {stored.name}"
    golden = np.asarray(Image.open(io.BytesIO(stored.read_bytes()))).astype(int)
    # Other instruction sets round differently, by at most a level or two after all steps.
    assert np.abs(np.asarray(made) - golden).max() <= 2


def golden_images(name: str, folder: Path) -> Image.Image:
    """Three translations side by side, by a v-prediction model with a VAE of its own scale and shift."""
    backbone = load_backbone(str(tiny_model(folder, "v_prediction", "shifted", seed=3)), device="cpu")
    learned = Prompt("a {token} icon", "<3d>", 10 * backbone.table_vectors("3d sun"))
    settings = BridgeSettings.model_validate({"tau": 1.5, "guidance": 5.0, "nfe": 5, **GOLDEN_PATHS[name]})
    geometry = Geometry(fit="aspect" if name == "aspect" else "letterbox")
    translator = Translator(backbone, Prompt("a flat icon"), learned, settings, "2024", 4, geometry)
    sheet = Image.new("RGB", (96, 32), "white")
    sizes = [(32, 32), (64, 40), (20, 50)]
    results = translator.translate([picture(number, size) for number, size in enumerate(sizes)])
    for number, result in enumerate(results):
        sheet.paste(result, (32 * number, 0))
    return sheet
