"""Names of files and words of others reach a terminal as something to read, never as something that steers it."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from pathlib import Path

import pytest

from flows.watching.display import BarProgress, LineProgress
from lsb.cli import main as cli
from lsb.cli import render, terminal
from lsb.cli.commands import making
from lsb.errors import UsageError
from lsb.jobs.erase import Erased
from lsb.jobs.rerun import Chosen
from lsb.ledger.attestation import environment_signer
from lsb.pictures.encoding import encode
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from lsb.views.diff import Difference
from tests.ledger import picture, start, translate_all

NASTY = "\x1b[2K\x1b[1A\x1b]0;title\x07x\n- everything\x7f\x9b31m\u202egnp.\u2066\u200b[red]\r.png"
SEEN = r"\x1b[2K\x1b[1A\x1b]0;title\x07x\n- everything\x7f\x9b31m\u202egnp.\u2066\u200b[red]\r.png"


def inert(text: str) -> bool:
    """Nothing but what is printed, and the ends of lines."""
    return all(line.isprintable() for line in text.split("\n"))


def one_line_of(text: str, name: str = SEEN) -> bool:
    return inert(text) and sum(name in line for line in text.split("\n")) >= 1


def test_results_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    render.show({"source": NASTY, "nested": {NASTY: [NASTY]}}, as_json=False, lines=[f"+ {NASTY}"])
    assert capsys.readouterr().out == f"source  {SEEN}\nnested  {SEEN} {SEEN}\n+ {SEEN}\n"
    render.show_all([{"source": NASTY}] * 2, as_json=False)
    assert capsys.readouterr().out == f"source  {SEEN}\n\nsource  {SEEN}\n"


def test_json_has_names_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    render.show({"source": NASTY}, as_json=True)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert json.loads(out) == {"source": NASTY}


def test_lists_of_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = {"0" * 32: NASTY}
    erased = Erased(
        records=nasty, without_image=0, files=(NASTY,), runs=(), other_runs=(), erased_before={"1" * 32: NASTY}
    )
    render.show(render.erased(erased, dry_run=True, as_json=False), as_json=False)
    chosen = Chosen(run="r", shards={"00000": {"0" * 32: 0}}, sources=nasty, why=nasty, terminal=0, final=0)
    render.show(render.counted(render.chosen(chosen)), as_json=False, lines=render.chosen_lines(chosen))
    difference = Difference(added=(NASTY,), vanished=(NASTY,), changed={NASTY: ("bytes",)}, unchanged=0)
    render.show({}, as_json=False, lines=render.difference_lines(difference))
    out = capsys.readouterr().out
    assert inert(out)
    assert out.count(SEEN) == 3 + 2 + 3
    assert len(out.splitlines()) == out.count("\n")


def test_complaints_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    render.complain(f"{NASTY}: s3://AKIA:hunter2@bucket/x?X-Amz-Signature=hunter2, password=hunter2")
    err = capsys.readouterr().err
    assert SEEN in err
    assert inert(err)
    assert "hunter2" not in err
    render.complain("prompts.target.token: give <dog> at /home/ann/job.yaml")
    assert capsys.readouterr().err == "prompts.target.token: give <dog> at /home/ann/job.yaml\n"


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("kind", [UsageError, ValueError])
def test_errors_and_tracebacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Exception], verbose: bool
) -> None:
    def fail(_: object) -> None:
        raise kind(f"no {NASTY.replace(chr(10), ' ')} at https://ann:hunter2@host/?sig=hunter2")

    monkeypatch.setattr(making, "load_config", fail)
    assert cli.run_command(["run", "any.yaml", *["--verbose"] * verbose]) == (2 if kind is UsageError else 1)
    err = capsys.readouterr().err
    assert inert(err)
    assert "hunter2" not in err
    assert ("Traceback" in err) == verbose


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", f"--{NASTY}"], "no such option"),
        (["run", "job.yaml", NASTY], "unexpected extra argument"),
        (["verify", "runs/a", "--sample", NASTY], "valid integer"),
        ([NASTY], "no such command"),
    ],
)
def test_arguments_that_are_repeated(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert inert(err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "s3://AKIA:hun/ter2@bucket/runs/a-0123456789ab"],
        ["status", "s3://bucket/p?X-Amz-Signature=hunter2&x=/runs/a-0123456789ab"],
        ["verify", "https://ann:hunter2@host/runs/a-0123456789ab"],
        ["gc", "s3://bucket/store?X-Amz-Signature=hunter2"],
        ["gc", "file://ann:hunter2@host/store"],
        ["diff", "s3://b/runs/a-0123456789ab?sig=hunter2", "s3://b/runs/a-0123456789ab"],
        ["trace", "s3://AKIA:hunter2@bucket/runs/a-0123456789ab/shards/x.png"],
        ["export", "s3://AKIA:hunter2@bucket/runs/a-0123456789ab", "out"],
    ],
)
def test_places_with_secrets_are_refused_and_not_repeated(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command(arguments) == 2
    printed = capsys.readouterr()
    assert "hunter2" not in printed.out + printed.err
    assert "ter2" not in printed.err
    assert printed.err.startswith("lsb: error: ")


def test_a_key_in_place_of_its_file_is_not_repeated() -> None:
    for key in ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----", "hunter2" * 40, "hunter2="):
        with pytest.raises(UsageError, match="No such file") as caught:
            environment_signer({"LSB_SIGNING_KEY": key})
        assert "hunter2" not in str(caught.value)


def test_progress() -> None:
    stream = io.StringIO()
    lines = LineProgress(stream)
    lines.start(NASTY, 2)
    lines.finish(NASTY)
    assert one_line_of(stream.getvalue())
    stream = io.StringIO()
    bars = BarProgress(stream)
    bars.start("[red]x\x1b[2J", 2)
    bars.finish("[red]x\x1b[2J")
    bars.close()
    assert r"[red]x\x1b[2J" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_logs_and_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("lsb.test_of_the_terminal")
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    for handled in (logging.lastResort, *logging.root.handlers):
        monkeypatch.setattr(handled, "formatter", handled and handled.formatter)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    terminal.tame_terminal()
    terminal.tame_logs()
    try:
        raise ValueError(f"https://ann:hunter2@host/ {NASTY}")
    except ValueError:
        logger.exception("no truth for %s", NASTY)
    assert inert(stream.getvalue())
    assert "hunter2" not in stream.getvalue()
    assert f"no truth for {SEEN}".split(r"\n")[0] in stream.getvalue()
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", terminal._show_warning)
        warnings.warn(f"odd\x1b[2J {Path(__file__)}\nmore", UserWarning, stacklevel=1)
    assert stream.getvalue() == f"lsb: warning: UserWarning: odd\\x1b[2J {Path(__file__)} more\n"


def test_the_commands_over_pictures_with_such_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = NASTY.replace("/", "")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "plain.png").write_bytes(encode(picture(1), "png"))
    store = LocalStore(tmp_path / "store")
    first = ingest(open_sources(str(folder)), "d", store)
    (folder / name).write_bytes(encode(picture(2), "png"))
    run, sources = start(store, folder)
    second = ingest(open_sources(str(folder)), "d", store)
    uri = f"{store.uri}/runs/{run.id}"
    versions = [f"{store.uri}/datasets/d/{found.version}" for found in (first, second)]
    assert cli.run_command(["diff", *versions]) == 0
    translate_all(store, run, sources)
    assert cli.run_command(["trace", name, "--run", uri]) == 0
    assert cli.run_command(["erase", uri, "--records", name, "--reason", "request 17", "--dry-run"]) == 0
    assert cli.run_command(["erase", uri, "--records", f"{name}?", "--reason", "request 17"]) == 2
    assert cli.run_command(["export", uri, str(tmp_path / "out")]) == 0
    assert cli.run_command(["status", uri]) == 0
    assert cli.run_command(["trace", f"{name}?", "--run", uri]) == 2
    assert cli.run_command(["gc", store.uri, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count(SEEN) == 3  # diff, trace and erase
    assert inert(printed.out)
    assert inert(printed.err)
