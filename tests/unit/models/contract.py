"""What every backbone must do. A new family's test derives from `BackboneContract` and gives the `backbone` fixture.

@pytest.fixture(scope="module")
def backbone() -> Backbone: ...


class TestSomething(BackboneContract):
    pass
"""

from __future__ import annotations

import pytest
import torch

from lsb.bridge.noise import unit_noise
from lsb.errors import BridgeError, PromptError
from lsb.models.prompt import Prompt
from lsb.models.protocol import Backbone
from lsb.records import digest_of


def noise(backbone: Backbone, rows: int, name: str = "x") -> torch.Tensor:
    return torch.stack(
        [unit_noise(own_latent(backbone), seed="0", digest=name, purpose="test", step=row) for row in range(rows)]
    )


def own_latent(backbone: Backbone) -> tuple[int, int, int]:
    """The latent's shape of a picture of the model's own size."""
    return backbone.latent_shape(backbone.canvas.side, backbone.canvas.side)


def pictures(backbone: Backbone, rows: int, height: int = 0, width: int = 0) -> torch.Tensor:
    shape = (3, height or backbone.canvas.side, width or backbone.canvas.side)
    return torch.stack(
        [unit_noise(shape, seed="0", digest="picture", purpose="test", step=row) for row in range(rows)]
    ).clamp(-1, 1)


class BackboneContract:
    """Tests of the protocol's promises; they look at nothing but the protocol."""

    def test_identity(self, backbone: Backbone) -> None:
        identity = backbone.identity
        assert identity.files
        assert all(len(digest) == 64 for digest in identity.files.values())
        assert list(identity.files) == sorted(identity.files)
        assert identity.digest == digest_of(identity.files)
        assert not identity.id.startswith(("/", "."))

    def test_encode_and_decode(self, backbone: Backbone) -> None:
        images = pictures(backbone, 2)
        latents = backbone.encode(images)
        assert latents.shape == (2, *own_latent(backbone))
        assert latents.dtype == torch.float32
        decoded = backbone.decode(latents)
        assert decoded.shape == images.shape
        assert decoded.dtype == torch.float32
        assert decoded.abs().max() <= 1
        assert not latents.requires_grad
        assert not decoded.requires_grad

    def test_a_picture_of_another_aspect(self, backbone: Backbone) -> None:
        canvas = backbone.canvas
        assert canvas.side >= canvas.stride >= 1
        width, height = canvas.side + canvas.stride, canvas.side
        images = pictures(backbone, 1, height, width)
        latents = backbone.encode(images)
        assert latents.shape == (1, *backbone.latent_shape(width, height))
        asked = backbone.predict(latents, 1.0, backbone.embed(Prompt("red")))
        assert asked.shape == latents.shape
        assert backbone.decode(asked).shape == images.shape

    def test_encode_is_the_mode_and_its_sample_is_what_the_noise_makes_it(self, backbone: Backbone) -> None:
        images, eps = pictures(backbone, 2), noise(backbone, 2)
        mode = backbone.encode(images)
        assert torch.equal(mode, backbone.encode(images))
        assert torch.equal(backbone.encode(images, torch.zeros_like(eps)), mode)
        sample = backbone.encode(images, eps)
        assert torch.equal(sample, backbone.encode(images, eps))
        assert not torch.equal(sample, mode)
        # Antithetic noise: the two samples lie on opposite sides of the mode.
        other = backbone.encode(images, -eps)
        assert torch.allclose((sample + other) / 2, mode, atol=1e-5)

    def test_predict_keeps_shape_and_dtype(self, backbone: Backbone) -> None:
        x_t, condition = noise(backbone, 3), backbone.embed(Prompt("a picture"))
        assert condition.shape[0] == 1
        for dtype in (torch.float32, torch.float64):
            eps_hat = backbone.predict(x_t.to(dtype), 1.0, condition)
            assert eps_hat.shape == x_t.shape
            assert eps_hat.dtype == dtype
            assert torch.isfinite(eps_hat).all()

    def test_sigma_matters_between_the_steps_of_the_table_and_below_it(self, backbone: Backbone) -> None:
        x_t, condition = noise(backbone, 1), backbone.embed(Prompt("a picture"))
        one, near, far = (backbone.predict(x_t, sigma, condition) for sigma in (1.0, 1.001, 2.0))
        assert not torch.equal(one, near)
        assert (one - near).abs().max() < (one - far).abs().max()
        assert torch.isfinite(backbone.predict(x_t, 1e-4, condition)).all()
        assert torch.isfinite(backbone.predict(x_t, backbone.sigma_max, condition)).all()

    def test_a_sigma_above_the_schedule_is_refused_and_the_largest_tau_named(self, backbone: Backbone) -> None:
        x_t, condition = noise(backbone, 1), backbone.embed(Prompt("a picture"))
        with pytest.raises(BridgeError, match=f"{2 * backbone.sigma_max:.6g}"):
            backbone.predict(x_t, backbone.sigma_max * 1.01, condition)
        for sigma in (-1.0, float("nan")):
            with pytest.raises(BridgeError):
                backbone.predict(x_t, sigma, condition)

    def test_one_sigma_a_row(self, backbone: Backbone) -> None:
        x_t, condition = noise(backbone, 3), backbone.embed(Prompt("a picture"))
        together = backbone.predict(x_t, [0.5, 1.0, 2.0], condition)
        for row, sigma in enumerate((0.5, 1.0, 2.0)):
            alone = backbone.predict(x_t, sigma, condition)
            assert torch.allclose(together[row], alone[row], atol=1e-5)
        with pytest.raises(BridgeError, match="2 sigmas for 3 rows"):
            backbone.predict(x_t, [0.5, 1.0], condition)

    def test_a_row_does_not_depend_on_its_company(self, backbone: Backbone) -> None:
        x_t, condition = noise(backbone, 4), backbone.embed(Prompt("a picture"))
        whole = backbone.predict(x_t, 1.0, condition)
        order = [2, 0, 3, 1]
        assert torch.equal(backbone.predict(x_t[order], 1.0, condition), whole[order])
        padded = backbone.predict(torch.cat([x_t[:1], x_t[:1], x_t[:1], x_t[:1]]), 1.0, condition)
        assert torch.equal(padded[0], whole[0])

    def test_the_prompt_matters(self, backbone: Backbone) -> None:
        x_t = noise(backbone, 1)
        one, two = (backbone.predict(x_t, 1.0, backbone.embed(Prompt(text))) for text in ("a red dog", "the sun"))
        assert not torch.equal(one, two)

    def test_learned_vectors_take_the_token_s_place(self, backbone: Backbone) -> None:
        """Vectors copied from the table give what the words give."""
        rows = backbone.table_vectors("red dog")
        assert rows.ndim == 2
        learned = Prompt("a picture of a {token} icon", "<new>", rows)
        assert torch.equal(backbone.embed(learned), backbone.embed(Prompt("a picture of a red dog icon")))

    def test_source_and_target_cannot_overwrite_each_other(self, backbone: Backbone) -> None:
        """Even under the same token: what one prompt means is untouched by all that is done with the other."""
        rows = backbone.table_vectors("red")
        source, target = Prompt("a {token}", "<style>", rows), Prompt("a {token}", "<style>", -2 * rows)
        plain = backbone.embed(Prompt("a <style>"))
        before = backbone.embed(source)
        other = backbone.embed(target)
        assert not torch.equal(before, other)
        assert torch.equal(backbone.embed(source), before)
        assert torch.equal(backbone.embed(target), other)
        assert torch.equal(backbone.embed(Prompt("a <style>")), plain)
        assert torch.equal(backbone.table_vectors("red"), rows)

    def test_gradients_reach_the_vectors_and_nothing_else(self, backbone: Backbone) -> None:
        rows = backbone.table_vectors("red dog").requires_grad_()
        prompt = Prompt("a {token}", "<new>", rows)
        assert not backbone.embed(prompt).requires_grad
        eps_hat = backbone.predict(noise(backbone, 2), [0.7, 1.4], backbone.embed(prompt, rows))
        (gradient,) = torch.autograd.grad(eps_hat.square().sum(), rows)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum(1).min() > 0

    def test_prompts_that_do_not_fit(self, backbone: Backbone) -> None:
        with pytest.raises(PromptError, match="reads at most"):
            backbone.embed(Prompt("a dog and " * 200))
        width = backbone.table_vectors("red").shape[1]
        with pytest.raises(PromptError, match=f"{width + 1} features"):
            backbone.embed(Prompt("{token}", "<x>", torch.zeros(1, width + 1)))
        with pytest.raises(PromptError, match="no tokens"):
            backbone.table_vectors(" ")
