"""`lsb tune` from a job's file to a sheet and another file, with the tiny model."""

from __future__ import annotations

import math
import re
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lsb import Prompt, Translator
from lsb.bridge.settings import BridgeSettings
from lsb.cli.main import run_command
from lsb.config.job import load_config
from lsb.errors import ConfigError, LsbError, SourceError, UsageError
from lsb.models.stable_diffusion import StableDiffusion
from lsb.progress import NoProgress
from lsb.tuning import search, times
from lsb.tuning import tune as module
from lsb.tuning.alone import alone
from lsb.tuning.bench import Bench
from lsb.tuning.book import Book
from lsb.tuning.looks import Looks
from lsb.tuning.sample import FEWEST, Sample, read_sample
from lsb.tuning.times import with_times
from lsb.tuning.tune import SECONDS, Asked, tune
from tests.ledger import picture
from tests.unit.tuning.standin import Pixels

JOB = """\
# what for
name: tiny
store: store
model: {model}
source: {{domain: flat, path: flat}}
prompts:
  source: {{text: a flat icon}}
  target: {{text: a 3d icon}}
bridge:  # to be found
  tau: 0.2875  # for now
  nfe: 2
execution: {{batch: 4, device: cpu}}
evaluate: {{target: 3d}}
"""


def looks(folder: Path) -> None:
    """Noise, and dark squares on white; one file that is no picture, and one picture twice."""
    for look in ("flat", "3d"):
        (folder / look).mkdir(parents=True)
    for index in range(FEWEST):
        picture(index, (24, 20)).save(folder / "flat" / f"{index}.png")
        square = np.full((20, 20, 3), 255, np.uint8)
        square[4:12, 4 : 8 + index % 8] = 10 * index
        Image.fromarray(square).save(folder / "3d" / f"{index}.png")
    shutil.copy(folder / "flat" / "0.png", folder / "flat" / "0 again.png")
    (folder / "3d" / "broken.png").write_bytes(b"no picture")


@pytest.fixture
def job(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("lsb.jobs.loading.extractor_for", lambda _: Pixels())
    looks(tmp_path)
    file = tmp_path / "job.yaml"
    file.write_text(JOB.format(model=tiny_folder))
    return file


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tiny_backbone: StableDiffusion) -> Bench:
    folder = tmp_path_factory.mktemp("looks")
    looks(folder)
    (folder / "job.yaml").write_text(JOB.format(model=tiny_folder))
    config = load_config(folder / "job.yaml")
    sample = read_sample(config, NoProgress())
    prompts = Prompt("a flat icon"), Prompt("a 3d icon")
    return Bench(Looks(config, tiny_backbone, Pixels(), sample, NoProgress()), prompts)


def test_a_sample_has_each_usable_picture_once(bench: Bench) -> None:
    sample: Sample = bench.sample
    assert (len(sample.sources), len(set(sample.digests)), len(sample.targets)) == (FEWEST, FEWEST, FEWEST)
    assert read_sample(bench.looks.config, NoProgress()).id == sample.id


def test_outputs_are_those_of_a_translation(bench: Bench, tiny_backbone: StableDiffusion) -> None:
    """Latents that were encoded before, in other batches, change no pixel."""
    for settings in (BridgeSettings(tau=0.6, nfe=2), BridgeSettings(tau=0.2, nfe=3, solver="adams_moulton")):
        made = Translator(tiny_backbone, *bench.prompts, settings, batch=4).translate(
            bench.sample.sources, bench.sample.digests
        )
        found = bench.outputs(settings, range(1, 6))
        assert [image.tobytes() for image in found] == [image.tobytes() for image in made[1:6]]


def test_figures_are_measured_from_what_the_autoencoder_does(bench: Bench) -> None:
    nothing = bench.nothing
    assert nothing.likeness == pytest.approx(0, abs=1e-9)
    assert nothing.change == pytest.approx(0, abs=1e-9)
    assert [step.pictures for step in bench.untouched] == [4, 8, 12]
    steps = [*bench.tried(BridgeSettings(tau=0.6, nfe=2))]
    assert [step.pictures for step in steps] == [4, 8, 12]
    assert len({step.likeness for step in (*steps, nothing)}) == 4


def test_times_are_tuned_where_there_are_few(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PATHS": 7, "PICTURES": 4, "_FINE": 12}.items():
        monkeypatch.setattr(times, name, value)
    few = BridgeSettings(tau=0.6, nfe=3, solver="adams_moulton", noise="mix")
    said: list[tuple[str, int]] = []

    class Bar(NoProgress):
        def start(self, name: str, total: int) -> None:
            said.append((name, total))

        def advance(self, name: str, n: int = 1, **_: float) -> None:
            said.append((name, n))

    found = with_times(few, bench, Bar())
    assert said[0] == ("times", 7)
    assert 0 < len(said) - 1 <= 7
    assert isinstance(found, BridgeSettings)
    assert found.grid in ("tuned", "uniform")
    assert (found.tau, found.nfe, found.noise) == (few.tau, few.nfe, few.noise)
    fine = few.model_copy(update={"nfe": 12, "grid": "theta"})
    for offered in (fine, few):  # nearer to the path than even steps are, and no nearer
        monkeypatch.setattr(times, "tune", lambda *_, offered=offered: offered)
        assert with_times(few, bench) is offered
    for other in (BridgeSettings(nfe=3), few.model_copy(update={"nfe": 8})):
        assert with_times(other, bench) is other


def test_a_search_from_the_job_to_its_new_file(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TRIALS", 4)
    found = tune(job, Asked(seconds=1e6))
    assert (found.tried, found.failed, found.job) == (4, 0, str(job.with_name("job.tuned.yaml")))
    assert found.remarks[-2:] == [
        f"Few settings were tried, 4 by now; `lsb tune {job}` goes on with the search.",
        f"{job.parent / '3d' / 'broken.png'} cannot be read, and was left out.",
    ]
    before, after = load_config(job), load_config(Path(str(found.job)))
    assert after.model_copy(update={"bridge": before.bridge}) == before
    assert found.recommended is not None
    assert {name: getattr(after.bridge, name) for name in found.recommended} == found.recommended
    text = Path(str(found.job)).read_text()
    assert all(comment in text for comment in ("# what for", "# to be found", "# for now"))
    sheet = Path(found.sheet).read_text()
    assert sheet.count("<b>Recommended</b>") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", sheet)
    assert "<script" not in sheet
    assert sorted(path.name for path in (job.parent / "store").iterdir() if path.name != ".tmp") == ["prompts"]
    assert tune(job, Asked(tries=1)).recommended == found.recommended  # what it has written itself it writes anew
    tuned = Path(str(found.job))
    tuned.write_text(f"# mine\n{text}")
    with pytest.raises(UsageError, match=r"job.tuned.yaml exists; move it away"):
        tune(job)
    again = tune(job, Asked(seconds=1e6, write=True))
    assert (again.tried, again.recommended, again.job) == (4, found.recommended, str(job))
    assert job.read_text() == text


def test_a_count_of_tries_stands_in_for_seconds() -> None:
    asked = [Asked(), Asked(tries=3), Asked(seconds=5, tries=3), Asked(seconds=5)]
    assert [one.most_seconds for one in asked] == [SECONDS, math.inf, 5, 5]


def test_remarks_are_said_one_after_another(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["tune", str(job), "--tries", "1"]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("remarks"))
    assert "goes on with the search. " in said
    assert ".," not in said


def test_settings_that_somebody_wants_to_see(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file is written, and a method that is not the job's is tried as it is by default."""
    before = job.read_text()
    assert run_command(["tune", str(job), "--settings", "tau=0.1,0.3", "--settings", "t0=0.1"]) == 0
    assert "tried        2" in capsys.readouterr().out
    assert sorted(path.name for path in job.parent.iterdir() if path.is_file()) == ["job.yaml"]
    assert job.read_text() == before
    found = tune(job, Asked(method="sdedit", settings={"sigma": ("0.2",)}, out=job.with_name("other.yaml")))
    config = load_config(Path(str(found.job)))
    assert (config.method.name, config.method_settings.largest_sigma) == ("sdedit", 0.2)  # type: ignore[union-attr]


def test_an_interruption_says_how_to_go_on(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = count(), Book.add

    def interrupted(self: Book, tried: Any) -> None:
        if next(asked) == 1:
            raise KeyboardInterrupt
        real(self, tried)

    monkeypatch.setattr(Book, "add", interrupted)
    assert run_command(["tune", str(job), "--seconds", "1000000"]) == 130
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint == f"lsb: error: interrupted; what was tried is kept in {job.parent}/job.tune, run again to go on"
    assert (job.parent / "job.tune" / "tried.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("change", "asked", "kind", "words"),
    [
        (("evaluate: {target: 3d}", ""), Asked(), ConfigError, "evaluate.target: missing"),
        (("{target: 3d}", "{target: ./flat/}"), Asked(), ConfigError, "is source.path, too"),
        (
            ("{target: 3d}", "{target: few}"),
            Asked(),
            UsageError,
            "few has 2 pictures; settings are tried on at least 12",
        ),
        (("path: flat", "path: few"), Asked(), UsageError, "few has 2 pictures"),
        (("{target: 3d}", "{target: nowhere}"), Asked(), SourceError, "nowhere"),
        (("tau: 0.2875", "tau: 500"), Asked(), ConfigError, "bridge.tau: tau 500.0 is too large"),
        (("text: a 3d icon", f"text: {'icon ' * 99}"), Asked(), ConfigError, "prompts.target.text: the prompt has"),
        (("", ""), Asked(method="magic"), UsageError, "no such method as magic; allowed are lsb"),
        (("", ""), Asked(settings={"tua": ("1",)}), UsageError, "--settings tua: no such setting"),
        (
            ("", ""),
            Asked(settings={"tau": ("0.1", "-1")}),
            UsageError,
            "--settings tau=-1: tau is -1; it must be above 0",
        ),
        (("", ""), Asked(settings={"tau": ("0.1",)}, tries=3), UsageError, "--tries 3 is of a search"),
        (("", ""), Asked(seconds=math.inf), UsageError, "--seconds is inf; give a number of seconds"),
        (("", ""), Asked(settings={"tau": ("much",)}), UsageError, "--settings tau=much: tau: "),
        (("", ""), Asked(settings={"tau": ("0.1", "400")}), ConfigError, "bridge.tau: tau 400.0 is too large"),
        (("", ""), Asked(out=Path("/proc/cpuinfo")), UsageError, "/proc/cpuinfo exists"),
        (
            ("  # to be found\n  tau: 0.2875  # for now\n  nfe: 2\n", " {tau: 0.2875,\n  nfe: 2  # two,\n}\n"),
            Asked(),
            ConfigError,
            "its settings cannot be changed from here; put them on lines of their own",
        ),
        (("", ""), Asked(out=Path("/proc/new.yaml")), UsageError, "cannot write /proc/new.yaml"),
        (("device: cpu", "device: cuda:99"), Asked(), ConfigError, "execution.device"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_will_not_do_is_said_before_a_picture_is_read(
    job: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    asked: Asked,
    kind: type[LsbError],
    words: str,
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("read")

    (job.parent / "few").mkdir()
    for index in range(2):
        picture(index).save(job.parent / "few" / f"{index}.png")
    job.write_text(job.read_text().replace(*change))
    before = sorted(job.parent.rglob("*"))
    monkeypatch.setattr(module, "read_sample", read)
    with pytest.raises(kind, match=re.escape(words)) as refused:
        tune(job, asked)
    assert refused.value.exit_code == (3 if kind is SourceError else 2)
    assert "\n" not in str(refused.value)
    assert sorted(job.parent.rglob("*")) == before


@pytest.mark.parametrize("given", [["tau"], ["tau="], ["tau=1", "tau=2"]])
def test_values_are_given_once_for_each_name(job: Path, capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
    arguments = [word for one in given for word in ("--settings", one)]
    assert run_command(["tune", str(job), *arguments]) == 2
    assert "write name=value,value once for each name" in capsys.readouterr().err


def test_without_optuna_that_is_said_first(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert run_command(["tune", str(job)]) == 3
    assert "needs the package optuna; pip install 'lsb[tune]'" in capsys.readouterr().err
    assert not (job.parent / "store").exists()


def test_too_few_that_can_be_read(job: Path) -> None:
    (job.parent / "flat" / "3.png").write_bytes(b"no picture any more")
    with pytest.raises(UsageError, match=r"flat has 11 pictures that can be read; settings are tried on at least 12"):
        tune(job)


def test_what_the_network_made_of_the_sample_is_kept(
    bench: Bench, tiny_backbone: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit; of another sample, and where the file is damaged, it is made anew."""
    config, sample, file = bench.looks.config, bench.sample, tmp_path / "prepared.safetensors"
    first = Looks(config, tiny_backbone, Pixels(), sample, NoProgress(), file)
    bars: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(tiny_backbone, "encode", None)
        patch.setattr(NoProgress, "start", lambda *_: bars.append(1))
        again = Looks(config, tiny_backbone, Pixels(), sample, NoProgress(), file)
    assert not bars
    assert [latent.tolist() for latent in again.latents] == [latent.tolist() for latent in first.latents]
    assert [image.tobytes() for image in again.softened] == [image.tobytes() for image in first.softened]
    assert again.target_vae.tolist() == first.target_vae.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name]
    kept = file.read_bytes()
    for damage in (lambda: file.write_bytes(kept[:-9]), lambda: None):
        damage()
        totals: list[int] = []
        monkeypatch.setattr(NoProgress, "start", lambda _, name, total, totals=totals: totals.append(total))
        other = Sample(sample.sources, sample.digests, sample.targets, f"other {len(file.read_bytes())}")
        Looks(config, tiny_backbone, Pixels(), other, NoProgress(), file)
        assert totals == [2 * FEWEST]


def test_looks_that_cannot_be_told_apart_are_said_before_a_prompt_is_learned(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learned(*_: object) -> None:
        raise AssertionError("learned")

    shutil.rmtree(job.parent / "3d")
    (job.parent / "3d").mkdir()
    for index in range(FEWEST):
        picture(100 + index, (24, 20)).save(job.parent / "3d" / f"{index}.png")
    monkeypatch.setattr(module, "_prompt", learned)
    with pytest.raises(UsageError, match="12 and 12 pictures do not show the network"):
        tune(job)
    assert not (job.parent / "store").exists()


def test_two_at_once_are_told(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TRIALS", 1)
    with alone(job.parent / "job.tune"), pytest.raises(UsageError, match="another `lsb tune` is at work on this job"):
        tune(job)
    assert tune(job, Asked(seconds=1e6)).tried == 1


def test_progress_counts_the_pictures_that_there_are(job: Path) -> None:
    totals: list[tuple[str, int]] = []

    class Bars(NoProgress):
        def start(self, name: str, total: int) -> None:
            totals.append((name, total))

    read_sample(load_config(job), Bars())
    assert totals == [("read", 2 * FEWEST + 2)]  # with the copy and the broken one, which nobody knows yet
