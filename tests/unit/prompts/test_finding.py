from __future__ import annotations

import base64
import io
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lsb.config.job import DomainPrompt, JobConfig
from lsb.errors import PromptError, SourceError, TamperedError
from lsb.models.stable_diffusion import StableDiffusion
from lsb.prompts.finding import (
    StoredPrompt,
    UnlearnedPrompt,
    find_prompt,
    given_prompt,
    learned_by,
    provenance_of,
    read_prompt,
)
from lsb.prompts.settings import LearningConfig, Side
from lsb.store.local import LocalStore


def config(folder: Path, images: int = 6, **learning: object) -> JobConfig:
    for domain, shade in (("flat", 40), ("3d", 200)):
        (folder / domain).mkdir(exist_ok=True)
        for number in range(images):
            Image.new("RGB", (32, 32), (shade, 10 * number, 128)).save(folder / domain / f"{number}.png")
    return JobConfig.model_validate(
        {
            "name": "job",
            "store": str(folder / "store"),
            "model": "unused",
            "source": {"domain": "flat", "path": str(folder / "flat")},
            "prompts": {
                "source": {"images": str(folder / "flat"), "token": "<flat>", "initial": "icon"},
                "target": {"domain": "3d", "text": "a 3d icon", "prefix": "clean "},
            },
            "learning": {"steps": 2, "batch": 2, "validate_every": 1, "validation_draws": 2, **learning},
        }
    )


def found(store: LocalStore, job: JobConfig, side: Side, backbone: StableDiffusion) -> StoredPrompt:
    prompt = find_prompt(store, job.prompt_request(side), backbone.identity)
    assert isinstance(prompt, StoredPrompt)
    return prompt


def learned(store: LocalStore, job: JobConfig, side: Side, backbone: StableDiffusion) -> StoredPrompt:
    prompt = find_prompt(store, job.prompt_request(side), backbone.identity)
    assert isinstance(prompt, UnlearnedPrompt)
    return prompt.learn(backbone)


def test_a_recipe_is_followed_once(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    job, store = config(tmp_path), LocalStore(tmp_path / "store")
    first = learned(store, job, "source", tiny_backbone)
    assert first.new
    assert read_prompt(store, first.key).token == "<flat>"
    again = found(store, job, "source", tiny_backbone)
    assert (again.id, again.new) == (first.id, False)
    assert not [entry for entry in store.list("prompts") if "checkpoint" in entry.key]


def test_other_settings_or_images_are_another_recipe(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    job, store, identity = config(tmp_path), LocalStore(tmp_path / "store"), tiny_backbone.identity
    learned(store, job, "source", tiny_backbone)
    for other in (config(tmp_path, steps=3), config(tmp_path, images=7)):
        assert isinstance(find_prompt(store, other.prompt_request("source"), identity), UnlearnedPrompt)


def test_who_finishes_second_takes_the_prompt_of_the_first(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    job, store = config(tmp_path), LocalStore(tmp_path / "store")
    slower = find_prompt(store, job.prompt_request("source"), tiny_backbone.identity)
    assert isinstance(slower, UnlearnedPrompt)
    winner = learned(store, job, "source", tiny_backbone)
    loser = slower.learn(tiny_backbone)
    assert (loser.id, winner.new, loser.new) == (winner.id, True, False)


def test_a_picture_that_cannot_be_read_is_not_learned_from(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    job, store = config(tmp_path), LocalStore(tmp_path / "store")
    (tmp_path / "flat" / "0.png").unlink()
    (tmp_path / "flat" / "0.png").symlink_to("/proc/self/mem")  # a file that opens and cannot be read
    assert learned(store, job, "source", tiny_backbone).new


def test_one_prompt_per_domain_serves_every_pair(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    """Three domains: three optimisations for the six translations, whichever side a domain is on."""
    config(tmp_path)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(tmp_path / "3d" / "one-more.png")
    (tmp_path / "noto").mkdir()
    for number in range(5):
        Image.new("RGB", (32, 32), (90, 20 * number, 30)).save(tmp_path / "noto" / f"{number}.png")
    store, made = LocalStore(tmp_path / "store"), []
    ids: dict[str, set[str]] = {}
    for source, target in permutations(("flat", "3d", "noto"), 2):
        sides = {"source": source, "target": target}
        job = JobConfig.model_validate(
            config(tmp_path).model_dump()
            | {
                "source": {"domain": source, "path": str(tmp_path / source)},
                "prompts": {
                    side: {"domain": domain, "images": str(tmp_path / domain), "token": f"<{domain}>"}
                    for side, domain in sides.items()
                },
            }
        )
        for side, domain in sides.items():
            prompt = find_prompt(store, job.prompt_request(side), tiny_backbone.identity)
            if isinstance(prompt, UnlearnedPrompt):
                prompt = prompt.learn(tiny_backbone)
                made.append(domain)
            ids.setdefault(domain, set()).add(prompt.id)
    assert sorted(made) == ["3d", "flat", "noto"]
    assert all(len(some) == 1 for some in ids.values())
    assert len(set.union(*ids.values())) == 3


def test_a_given_prompt_needs_no_model(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    job, store = config(tmp_path), LocalStore(tmp_path / "store")
    given = found(store, job, "target", tiny_backbone)
    assert (given.domain, given.new) == ("3d", False)
    assert read_prompt(store, given.key).text == "clean a 3d icon"


def test_a_changed_prompt_file_is_noticed(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    job, store = config(tmp_path), LocalStore(tmp_path / "store")
    given = found(store, job, "target", tiny_backbone)
    store.write(given.key, store.read(given.key).replace(b"3d", b"4d"))
    with pytest.raises(TamperedError, match=given.id):
        read_prompt(store, given.key)


def test_a_given_embedding_was_not_learned_now(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    store, job = LocalStore(tmp_path / "store"), config(tmp_path)
    save_file({"<cat>": torch.ones(1, 4)}, tmp_path / "cat.safetensors")
    request = replace(job.prompt_request("target"), wanted=DomainPrompt(file=str(tmp_path / "cat.safetensors")))
    for _ in range(2):
        given = find_prompt(store, request, tiny_backbone.identity)
        assert isinstance(given, StoredPrompt)
        assert not given.new


def test_what_an_earlier_run_learned_is_taken_unless_it_was_changed(
    tmp_path: Path, tiny_backbone: StableDiffusion
) -> None:
    store = LocalStore(tmp_path / "store")
    earlier = learned(store, config(tmp_path), "source", tiny_backbone)
    request = config(tmp_path, images=7).prompt_request("source")
    assert find_prompt(store, request, tiny_backbone.identity, [earlier]) == earlier
    store.write(earlier.key, store.read(earlier.key)[:-1])
    with pytest.raises(TamperedError, match=earlier.id):
        find_prompt(store, request, tiny_backbone.identity, [earlier])


def test_one_image_is_too_few_to_learn_from(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    job, store = config(tmp_path, images=1), LocalStore(tmp_path / "store")
    with pytest.raises(SourceError, match="at least 2"):
        learned(store, job, "source", tiny_backbone)


def test_the_configured_token_names_a_nameless_file(tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(1, 4)}, tmp_path / "flat icons.safetensors")
    file = str(tmp_path / "flat icons.safetensors")
    assert given_prompt(DomainPrompt(file=file)).token == "<flat-icons>"
    assert given_prompt(DomainPrompt(file=file, token="<flat>")).token == "<flat>"
    frozen = DomainPrompt.model_validate(DomainPrompt(file=file).model_dump())
    assert given_prompt(frozen).token == "<flat-icons>"
    save_file({"<cat>": torch.ones(1, 4)}, tmp_path / "named.safetensors")
    with pytest.raises(PromptError, match="token is <flat>, but the file names its embedding <cat>"):
        given_prompt(DomainPrompt(file=str(tmp_path / "named.safetensors"), token="<flat>"))


def test_what_was_learned_before_there_were_these_settings_stays(
    tmp_path: Path, tiny_backbone: StableDiffusion
) -> None:
    """Where nothing is said of them; whoever says something, or asks for it, learns anew."""
    store, identity = LocalStore(tmp_path / "store"), tiny_backbone.identity
    then = config(tmp_path, validation_draws=16)
    then = then.model_copy(update={"learning": then.learning.as_before})
    recipe = find_prompt(store, then.prompt_request("source"), identity).recipe  # type: ignore[union-attr]
    assert recipe["learning"] == {  # as versions before wrote it, by which the recipe's file is called
        "steps": 2, "batch": 2, "validate_every": 1, "learning_rate": 0.005, "sigma_min": 0.3, "sigma_max": 4.0,
        "templates": list(LearningConfig().templates), "validation_fraction": 0.1, "patience": 5, "max_images": 1000,
    }  # fmt: skip
    earlier = learned(store, then, "source", tiny_backbone)
    request = config(tmp_path, validation_draws=16).prompt_request("source")
    assert find_prompt(store, request, identity) == earlier.__class__(earlier.domain, earlier.id, earlier.key)
    assert isinstance(find_prompt(store, request, identity, refit=True), UnlearnedPrompt)
    for said in ({"sigma_max": 8.0}, {"flip": True}, {"learning_rate": 0.1}):
        assert isinstance(
            find_prompt(store, config(tmp_path, validation_draws=16, **said).prompt_request("source"), identity),
            UnlearnedPrompt,
        )
    same = config(tmp_path, validation_draws=16, sigma_max=4.0, learning_rate=0.005).prompt_request("source")
    assert isinstance(find_prompt(store, same, identity), StoredPrompt)


def test_what_was_half_learned_before_there_were_these_settings_is_gone_on_with(
    tmp_path: Path, tiny_backbone: StableDiffusion
) -> None:
    store, identity = LocalStore(tmp_path / "store"), tiny_backbone.identity
    then = config(tmp_path)
    then = then.model_copy(update={"learning": then.learning.as_before})
    begun = find_prompt(store, then.prompt_request("source"), identity)
    assert isinstance(begun, UnlearnedPrompt)
    begun.checkpoint.save(b"state")
    found = find_prompt(store, config(tmp_path).prompt_request("source"), identity)
    assert isinstance(found, UnlearnedPrompt)
    assert found.recipe == begun.recipe


def test_pictures_that_are_added_leave_what_was_begun(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    """One that is taken away does not: what was learned from it may not stay."""
    store, identity = LocalStore(tmp_path / "store"), tiny_backbone.identity

    def unlearned(images: int) -> UnlearnedPrompt:
        found = find_prompt(store, config(tmp_path, images).prompt_request("source"), identity)
        assert isinstance(found, UnlearnedPrompt)
        return found

    first = unlearned(6)
    first.checkpoint.save(b"state")
    more = unlearned(8)
    assert more.checkpoint.load() == (b"state", True)
    (tmp_path / "flat" / "0.png").unlink()
    fewer = find_prompt(store, config(tmp_path, 0).prompt_request("source"), identity)
    assert isinstance(fewer, UnlearnedPrompt)
    assert fewer.checkpoint.load() is None
    more.checkpoint.save(b"own")
    assert unlearned(8).checkpoint.load() == (b"own", False)


def test_a_learned_prompt_says_between_which_levels_and_shows_what_it_is(
    tmp_path: Path, tiny_backbone: StableDiffusion
) -> None:
    store, job = LocalStore(tmp_path / "store"), config(tmp_path)
    found = learned(store, job, "source", tiny_backbone)
    said = provenance_of(store, found.domain, found.id)
    assert said["sigmas"][1] == 8.0
    pictures = [Image.open(io.BytesIO(base64.b64decode(one))) for one in said["imagined"]]
    assert [picture.format for picture in pictures] == ["WEBP"] * 4
    assert learned_by(store, found) == job.learning.model_dump(mode="json")
    assert provenance_of(store, "flat", "0" * 64) == {}


def test_a_rate_that_is_said_is_not_that_of_before() -> None:
    before = LearningConfig.of_trace({})
    assert LearningConfig().allows(before)
    assert LearningConfig(learning_rate=5e-3).allows(before)
    relative = LearningConfig(relative_rate=0.04)
    assert not relative.allows(before)
    assert relative.as_before.learning_rate is None
    assert relative.allows(LearningConfig.of_trace(relative.trace))
