"""CLIP text encoder with learned vectors that belong to the prompt, not to the encoder.

The token never enters the tokenizer's vocabulary and its vectors never enter the embedding table: for the time of
one call they take the token's places in the embedding layer's output. So prompts of several domains live side by
side, and none can overwrite another.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from lsb.errors import PromptError
from lsb.models.prompt import Prompt


class TextConditioner:
    """Tokenizer and frozen text encoder, as used by Stable Diffusion 1.x and 2.x."""

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._embedding: nn.Embedding = encoder.get_input_embeddings()  # type: ignore[operator]
        self._one_at_a_time = threading.Lock()
        config: Any = encoder.config
        self.length = int(min(tokenizer.model_max_length, config.max_position_embeddings))
        self.width = int(self._embedding.weight.shape[1])
        self._masks = bool(getattr(config, "use_attention_mask", False))

    def encode(self, prompt: Prompt) -> Tensor:
        """Condition (1, L, D) in the encoder's dtype. Gradients flow into `prompt.vectors` if they are asked for.

        Raises:
            PromptError: longer than the encoder reads, or vectors of another width.
        """
        return self.encode_with(prompt, prompt.vectors)

    def encode_with(self, prompt: Prompt, vectors: Tensor | None) -> Tensor:
        """As `encode`, with other vectors (V, D) in the places of the prompt's own."""
        device = self._embedding.weight.device
        ids, places, used = self._tokens(prompt, 0 if vectors is None else len(vectors))
        tokens = torch.tensor([ids], device=device)
        mask = (torch.arange(self.length, device=device) < used).long().unsqueeze(0) if self._masks else None
        if vectors is None:
            with self._one_at_a_time:
                return self._encoder(tokens, attention_mask=mask).last_hidden_state
        if vectors.shape[1] != self.width:
            raise PromptError(
                f"vectors of {prompt.token} have {vectors.shape[1]} features, this model's text encoder {self.width}; "
                "use an embedding learned for this model"
            )
        rows = vectors.to(device, self._embedding.weight.dtype).repeat(len(places) // len(vectors), 1).unsqueeze(0)
        index = torch.tensor(places, device=device)

        def replace(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            return output.index_copy(1, index, rows)

        with self._one_at_a_time:
            hook = self._embedding.register_forward_hook(replace)
            try:
                return self._encoder(tokens, attention_mask=mask).last_hidden_state
            finally:
                hook.remove()

    def table_vectors(self, text: str) -> Tensor:
        """Rows (n, D) of the embedding table, float32, for the n tokens of `text`.

        Raises:
            PromptError: no token in it.
        """
        ids = self._ids(text)
        if not ids:
            raise PromptError(f"initial text {text!r} has no tokens; give a word or two")
        rows = self._embedding.weight[torch.tensor(ids, device=self._embedding.weight.device)]
        return rows.detach().float().cpu()

    def table_scale(self) -> tuple[float, float]:
        """Standard deviation of the embedding table's numbers, and the median length of its rows."""
        table = self._embedding.weight.detach().float()
        return float(table.std()), float(table.norm(dim=1).median())

    def _tokens(self, prompt: Prompt, vectors: int) -> tuple[list[int], list[int], int]:
        """Token ids padded to `length`, the places of the vectors, and how many ids are not padding."""
        start, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        ids, places = [start], list[int]()
        pieces = [prompt.text] if prompt.token is None else prompt.text.split(prompt.token)
        for number, piece in enumerate(pieces):
            if number:
                places += range(len(ids), len(ids) + vectors)
                ids += [end] * vectors
            ids += self._ids(piece)
        ids.append(end)
        if len(ids) > self.length:
            raise PromptError(
                f"prompt {prompt.text!r} has {len(ids) - 2} tokens, the text encoder reads at most {self.length - 2}; "
                "shorten the text or use fewer vectors"
            )
        padding = [self._tokenizer.pad_token_id] * (self.length - len(ids))
        return ids + padding, places, len(ids)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text.strip() else []
