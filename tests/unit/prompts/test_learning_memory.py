"""Learning a prompt where memory is short: fewer rows at a time, blocks calculated twice, and not a bit changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from lsb.errors import ResourceError
from lsb.models.stable_diffusion import StableDiffusion
from lsb.prompts.seen import latents_of
from tests.unit.prompts.line import QUICK, Line, learn, pictures, same


def test_what_does_not_fit_into_memory_is_learned_from_fewer_rows_at_a_time(
    tiny_backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps, from gradients that are added up."""
    whole = learn(tiny_backbone, pictures())
    network = tiny_backbone._network
    rows: list[int] = []

    def small(y: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(y))
        if len(y) > 1:
            raise MemoryError("no room")
        return network(y, *rest)

    monkeypatch.setattr(tiny_backbone, "_network", small)
    parts = learn(tiny_backbone, pictures())
    assert len([count for count in rows if count > 1]) <= 3  # each size once
    assert parts.prompt.vectors is not None
    assert whole.prompt.vectors is not None
    torch.testing.assert_close(parts.prompt.vectors, whole.prompt.vectors, rtol=1e-3, atol=1e-4)
    losses = [[look["validation_loss"] for look in learned.history] for learned in (parts, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_pictures_that_cannot_be_encoded_together_are_encoded_one_by_one(
    tiny_backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [Image.new("RGB", (32, 32), (20 * number, 90, 90)) for number in range(6)]
    whole = learn(tiny_backbone, images)
    encode = tiny_backbone.encode

    def small(images: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
        if len(images) > 1:
            raise RuntimeError("CUDA out of memory")
        return encode(images, eps)

    monkeypatch.setattr(tiny_backbone, "encode", small)
    parts = learn(tiny_backbone, images)
    assert parts.history[0]["validation_loss"] == pytest.approx(whole.history[0]["validation_loss"], rel=1e-4)


def test_no_more_than_four_pictures_of_512_pixels_are_encoded_together() -> None:
    """More of them need more memory than a step of learning does."""
    together: list[int] = []

    class Counting(Line):
        def encode(self, images: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
            together.append(len(images))
            return images[..., :1, :1]

    sizes = [(512, 512)] * 5 + [(2048, 1024)] * 2 + [(64, 64)] * 9
    assert len(latents_of(Counting(), [torch.zeros(3, *size) for size in sizes], 8)) == 16
    assert together == [4, 1, 1, 1, 8, 1]
    either: list[torch.Tensor | Image.Image] = [
        torch.zeros(3, 2, 4),
        Image.new("RGB", (2, 4)),
        Image.new("RGB", (4, 2)),
    ]
    assert len(latents_of(Counting(), either, 8)) == 3
    assert together[6:] == [2, 1]


def test_what_does_not_fit_by_itself_is_said_in_a_line(
    tiny_backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> torch.Tensor:
        raise MemoryError("no room")

    monkeypatch.setattr(tiny_backbone, "_network", full)
    with pytest.raises(ResourceError, match="not even one picture at a time"):
        learn(tiny_backbone, pictures())


def test_blocks_that_are_calculated_twice_change_no_bit(
    tiny_backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where memory ends on the way back, fewer rows are learned from at a time."""
    images = [Image.new("RGB", (32, 32), (20 * number, 90, 90)) for number in range(6)]
    few = QUICK.model_copy(update={"steps": 3})
    whole = learn(tiny_backbone, images, few)
    block, unet = tiny_backbone._unet.up_blocks[0].resnets[0], tiny_backbone._unet
    forward, again, most = block.forward, list[int](), few.batch

    def counted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        if torch._C._current_graph_task_id() != -1:  # on the way back
            again.append(len(x))
            if len(x) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(x, *rest)

    monkeypatch.setattr(block, "forward", counted)
    learn(tiny_backbone, images, few.model_copy(update={"steps": 1}))
    assert not again
    try:
        unet.enable_gradient_checkpointing()
        assert same(learn(tiny_backbone, images, few), whole)
        assert again == [few.batch] * few.steps
        again.clear()
        most = 1
        assert learn(tiny_backbone, images, few).history[-1]["validation_loss"] == pytest.approx(
            whole.history[-1]["validation_loss"], rel=1e-4
        )
        assert again == [4, 2] + [1] * few.batch * few.steps
        most = 0
        with pytest.raises(ResourceError, match=r"one picture at a time \(CUDA out of memory.*or another dtype$"):
            learn(tiny_backbone, images, few)
    finally:
        unet.disable_gradient_checkpointing()
