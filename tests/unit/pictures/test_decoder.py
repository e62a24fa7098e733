"""Decoding in a process that may die, with real processes and real files that hang or overfill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from lsb.errors import DecodingError, ImageError, ResourceError
from lsb.pictures import decoder as module
from lsb.pictures.decoder import ERROR_CODES, Decoder, shared_decoder
from lsb.pictures.images import (
    LETTERBOX_RULES,
    RULES,
    decode,
    decode_transparent,
    decoding_version,
    metadata_of,
)
from lsb.pictures.transparency import on_white
from tests.bombs import large, saved, scan_bomb
from tests.ledger import picture
from tests.tiffs import tiff

GIB = 1 << 30


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def process_of(decoder: Decoder) -> int:
    return decoder._idle[0]._process.pid


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def test_pixels_and_facts_are_those_of_decode(decoder: Decoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = Image.merge("RGBA", [*picture(1).split(), Image.linear_gradient("L").resize((12, 8))])
    files = [
        saved(picture(0), "JPEG", exif=exif),
        saved(picture(0), "PNG", icc_profile=srgb),
        saved(picture(0).convert("CMYK"), "TIFF"),
        saved(Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600), "PNG"),
        saved(alpha, "WEBP", lossless=True),
        saved(alpha.quantize(8), "PNG"),
        saved(picture(3), "AVIF"),
    ]
    for data in files:
        (mine, info), (theirs, expected) = decoder.decode(data), decode(data)
        assert (mine.mode, mine.size, mine.tobytes()) == (theirs.mode, theirs.size, theirs.tobytes())
        assert info == expected == decoder.inspect(data)
        apart = decoder.decode_transparent(data)
        assert (apart.mode, apart.tobytes()) == ("RGBA", decode_transparent(data).tobytes())
        assert on_white(apart).tobytes() == mine.tobytes()
        assert decoder.metadata_of(data) == metadata_of(data)
    assert [decoder.inspect(data).transparent for data in files] == [False] * 4 + [True] * 2 + [False]
    assert decoder.metadata_of(saved(picture(0), "JPEG", xmp=b"<x/>")).kinds == ("xmp",)


def test_the_rules_of_decoding_are_those_asked_for(decoder: Decoder) -> None:
    data = tiff(np.arange(96, dtype=np.uint16).reshape(8, 12) * 40)
    for rules in (RULES, LETTERBOX_RULES):
        assert decoder.decode(data, rules)[0].tobytes() == decode(data, rules)[0].tobytes()
    assert decoder.decode(data)[0].tobytes() != decoder.decode(data, LETTERBOX_RULES)[0].tobytes()


def test_one_process_serves_many_files_bad_ones_too(decoder: Decoder) -> None:
    good = saved(picture(0), "PNG")
    decoder.inspect(good)
    first = process_of(decoder)
    for data, code in ((b"", "empty_file"), (b"some text", "not_an_image"), (good[:60], "truncated")):
        for call in (decoder.inspect, decoder.decode):
            with pytest.raises(ImageError) as caught:
                call(data)
            with pytest.raises(ImageError) as expected:
                decode(data)
            assert (caught.value.code, str(caught.value)) == (code, str(expected.value))
    decoder.inspect(good)
    assert process_of(decoder) == first != os.getpid()


def test_a_scan_bomb_is_ended_in_time_and_the_next_file_decoded() -> None:
    bomb = scan_bomb(2000, 4000)
    assert len(bomb) < 200_000
    with Decoder(cpu_seconds=1.5) as decoder:
        started = time.monotonic()
        with pytest.raises(DecodingError, match="decode_timed_out") as caught:
            decoder.inspect(bomb, LETTERBOX_RULES)
        assert caught.value.code == "decode_timed_out"
        assert time.monotonic() - started < 200
        assert decoder.inspect(saved(picture(0), "PNG")).width == 12
    assert decode(scan_bomb(1))[1].width == 8000


def test_a_picture_of_absurdly_many_scans_is_refused_at_once() -> None:
    with Decoder(cpu_seconds=5) as decoder, pytest.raises(ImageError, match=r"20\d\d\d scans") as caught:
        decoder.inspect(scan_bomb(20_000, 4000))
    assert caught.value.code == "too_many_scans"


def test_time_is_the_files_own_not_the_processs() -> None:
    bomb = scan_bomb(5, 4000)
    with Decoder() as decoder:
        decoder.inspect(bomb)  # with all that is done only once
        limit = 3 * seconds_of(process_of(decoder))
    with Decoder(cpu_seconds=limit) as decoder:
        decoder.inspect(bomb)
        first = process_of(decoder)
        while seconds_of(first) < 1.5 * limit:
            decoder.inspect(bomb)
            assert process_of(decoder) == first


def seconds_of(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_one_that_stands_still_is_ended() -> None:
    with Decoder() as decoder:
        decoder.inspect(saved(picture(0), "PNG"))
        os.kill(process_of(decoder), signal.SIGSTOP)
        decoder._wall_seconds = 0.5
        with pytest.raises(DecodingError, match="decode_timed_out"):
            decoder.inspect(saved(picture(0), "PNG"))


def test_memory_is_bounded_and_lack_of_it_is_no_fault_of_the_bytes() -> None:
    data = large()
    assert len(data) < 60_000
    with Decoder(memory=GIB) as decoder:
        for call in (decoder.inspect, decoder.decode):
            with pytest.raises(DecodingError) as caught:
                call(data)
            assert caught.value.code == "decode_out_of_memory"
        assert decoder.inspect(saved(picture(0), "PNG")).width == 12
        # What a small file is refused for is still its own fault.
        with pytest.raises(ImageError, match="truncated"):
            decoder.inspect(saved(picture(0), "PNG")[:60])


def test_the_bound_suffices_for_every_picture_that_is_small_enough(decoder: Decoder) -> None:
    assert decoder.inspect(large()).width == 16383


def test_a_process_that_dies_is_replaced(decoder: Decoder) -> None:
    bomb, others = scan_bomb(20_000, 4000), set(busy_children())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(decoder.decode, bomb, LETTERBOX_RULES)
        until = time.monotonic() + 200
        while not (found := set(busy_children()) - others):
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(found.pop(), signal.SIGSEGV)
        with pytest.raises(DecodingError, match=r"decoder_died.*SIGSEGV") as caught:
            asked.result()
    assert caught.value.code == "decoder_died"
    assert caught.value.code in ERROR_CODES
    assert decoder.inspect(saved(picture(0), "PNG")).width == 12


def busy_children() -> list[int]:
    """Our decoding processes that have taken more time than it takes to start."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            decodes = b"lsb.pictures.decoder" in (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if decodes and int(fields[1]) == os.getpid() and int(fields[11]) > 100:
            found.append(int(stat.parent.name))
    return found


def test_threads_do_not_mix_up_their_pictures(decoder: Decoder) -> None:
    files = [saved(picture(number, (40 + number, 30)), "PNG") for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decoder.decode, files * 3))
    assert [image.tobytes() for image, _ in found] == [decode(data)[0].tobytes() for data in files * 3]
    assert len(decoder._idle) <= 4


def test_signals_for_us_are_not_for_it(decoder: Decoder) -> None:
    decoder.inspect(saved(picture(0), "PNG"))
    first = process_of(decoder)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(first, number)
    time.sleep(0.2)
    decoder.inspect(saved(picture(0), "PNG"))
    assert process_of(decoder) == first


def test_a_fork_leaves_the_process_to_its_owner(decoder: Decoder) -> None:
    data = saved(picture(0), "PNG")
    decoder.inspect(data)
    first = process_of(decoder)
    child = os.fork()
    if child == 0:  # no test tool may run in here
        try:
            good = decoder.decode(data)[0].tobytes() == decode(data)[0].tobytes() and process_of(decoder) != first
            decoder.close()
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert decoder.decode(data)[0].tobytes() == decode(data)[0].tobytes()
    assert process_of(decoder) == first


STARTER = """
import os, sys, time
from lsb.pictures.decoder import Decoder
decoder = Decoder()
decoder.inspect(open(sys.argv[1], "rb").read())
print(decoder._idle[0]._process.pid, flush=True)
if sys.argv[2] == "busy":
    decoder.inspect(open(sys.argv[3], "rb").read(), 3)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_it_ends_with_whoever_started_it(tmp_path: Path, state: str) -> None:
    (tmp_path / "a.png").write_bytes(saved(picture(0), "PNG"))
    (tmp_path / "b.jpg").write_bytes(scan_bomb(100_000, 4000))
    command = [sys.executable, "-c", STARTER, str(tmp_path / "a.png"), state, str(tmp_path / "b.jpg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        time.sleep(0.5)
        starter.kill()
    until = time.monotonic() + 200
    while alive(pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_it_starts_fast_knows_no_torch_no_secrets_and_nothing_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "struct.py", "timeit.py", "numpy.py"):
        (tmp_path / name).write_text("open('RAN', 'w').write('x')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    with Decoder() as decoder:
        decoder.inspect(saved(picture(0), "PNG"))
        child = Path(f"/proc/{process_of(decoder)}")
        assert b"very-secret" not in (child / "environ").read_bytes()
        assert (child / "cwd").resolve() == Path("/")
        assert "torch" not in (child / "maps").read_text()
    assert not (tmp_path / "RAN").exists()
    assert not {"", str(tmp_path)} & set(module._search_path())


def test_what_cannot_be_started_is_no_pictures_fault(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ResourceError, match="cannot start a process that decodes pictures: No such file"):
        decoder.inspect(saved(picture(0), "PNG"))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ResourceError, match=r"does not start.*exit code 1"):
        decoder.inspect(saved(picture(0), "PNG"))


LIAR = """#!{python}
import os, struct, sys, time
def say(text, pixels=b""):
    os.write(1, struct.pack(">IQ", len(text), len(pixels)) + text + pixels)
say(b"{{}}")
head = os.read(0, 9)
say({text}, {pixels})
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        (b"[]", b""),
        (b"{", b""),
        (b'{"code": "x", "message": "y"}', b""),
        (b'{"size": [9, 9], "info": {}}', b""),
        (
            b'{"size": [1, 1], "info": {"format": "PNG", "mode": "L", "width": 1, "height": 1, "orientation": 1}}',
            b"12345",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, pixels: bytes
) -> None:
    liar = tmp_path / "liar"
    liar.write_text(LIAR.format(python=sys.executable, text=text, pixels=pixels))
    liar.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(liar))
    with Decoder() as decoder, pytest.raises(DecodingError, match="makes no sense"):
        decoder.decode(saved(picture(0), "PNG"))


def test_there_is_one_for_the_whole_process() -> None:
    assert shared_decoder() is shared_decoder()


def test_the_version_names_what_decides() -> None:
    version = decoding_version()
    assert version.startswith("rules=")
    assert f"pillow={Image.__version__}" in version
    assert "libjpeg_turbo=" in version
    assert "\n" not in version


class Cramped(Decoder):
    """Has no memory for two pictures at a time, and none at all for one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work: list[bytes] = []
        self.tried: list[bytes] = []
        self.together = threading.Barrier(2)

    def _ask_once(self, what: bytes, data: bytes, rules: int) -> Any:
        first = data not in self.tried
        self.tried.append(data)
        self.at_work.append(data)
        try:
            if first and data != b"alone":
                self.together.wait()
            if first or len(self.at_work) > 1 or data == b"too large":
                raise DecodingError("no memory", code="decode_out_of_memory")
            return {}, b""
        finally:
            self.at_work.remove(data)


def test_a_picture_for_which_memory_does_not_suffice_beside_others_is_decoded_alone() -> None:
    cramped = Cramped()
    with ThreadPoolExecutor(2) as threads:
        one, other = (threads.submit(cramped._ask, b"d", data) for data in (b"one", b"too large"))
        assert one.result() == ({}, b"")
        with pytest.raises(DecodingError) as caught:
            other.result()
    assert caught.value.code == "decode_out_of_memory"
    assert sorted(cramped.tried) == [b"one", b"one", b"too large", b"too large"]
    with pytest.raises(DecodingError):
        cramped._ask(b"d", b"alone")  # a second try would be like the first
    assert cramped.tried.count(b"alone") == 1


def test_nobody_begins_while_one_is_decoded_alone() -> None:
    company, began = module._Company(), threading.Event()

    def beside() -> bool:
        with company.beside_others() as had:
            began.set()
            return had()

    with ThreadPoolExecutor(1) as threads:
        with company.alone():
            waiting = threads.submit(beside)
            assert not began.wait(0.05)
        assert waiting.result() is False
