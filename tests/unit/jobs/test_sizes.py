"""What a dry run says of sizes."""

from __future__ import annotations

from typing import Any

from lsb.jobs.sizes import NAMED, OTHER, UNKNOWN, sizes_of
from lsb.ledger.schemas import RECORDS, RecordRow
from lsb.pictures.geometry import Canvas, Geometry

SD = Canvas(512, 64)


def records(*sizes: tuple[int | None, int | None, int], status: str = "ok") -> Any:
    rows: list[RecordRow] = [
        {
            "record_id": f"{number:032x}",
            "key": f"{number}.png",
            "bytes": 1,
            "etag": "",
            "status": status,
            "width": width,
            "height": height,
            "orientation": orientation,
        }
        for number, (width, height, orientation) in enumerate(sizes)
    ]
    return RECORDS.table(rows)


def test_outputs_are_as_large_as_the_pictures_are_shown() -> None:
    found = sizes_of(records((4000, 3000, 1), (4000, 3000, 6), (3000, 4000, 1), (512, 512, 1)), Geometry(), SD)
    assert found.outputs == {"3000x4000": 2, "4000x3000": 1, "512x512": 1}
    assert found.working == {"448x576": 2, "512x512": 1, "576x448": 1}
    assert found.smaller == {}


def test_why_an_output_is_smaller_than_its_file_says() -> None:
    table = records((20_000, 10_000, 6), (4000, 3000, 1), (600, 400, 1))
    found = sizes_of(table, Geometry(max_scale=4), SD)
    assert set(found.outputs) > {"2304x1728", "600x400"}
    assert found.smaller == {"read reduced": 1, "geometry.max_scale": 2}
    assert sizes_of(table, Geometry(), SD).outputs == {"4000x3000": 1, "5000x10000": 1, "600x400": 1}


def test_pictures_that_nobody_has_read_are_counted_apart() -> None:
    found = sizes_of(records((None, None, 1), (None, None, 1), (10, 10, 1)), Geometry(), SD)
    assert found.outputs == {"10x10": 1, UNKNOWN: 2}
    assert found.working == {"512x512": 1, UNKNOWN: 2}


def test_unusable_records_have_no_size() -> None:
    assert sizes_of(records((10, 10, 1), status="quarantined"), Geometry(), SD).outputs == {}


def test_as_many_sizes_as_pictures_are_not_all_named() -> None:
    sizes = sizes_of(records(*((100 + number, 100, 1) for number in range(40))), Geometry(), SD)
    assert len(sizes.outputs) == NAMED + 1
    assert sizes.outputs[OTHER] == 40 - NAMED
    assert sum(sizes.working.values()) == 40


def test_letterboxed_outputs_have_the_model_s_size() -> None:
    found = sizes_of(records((4000, 3000, 1)), Geometry(fit="letterbox"), SD)
    assert (found.outputs, found.working) == ({"512x384": 1}, {"512x512": 1})


def test_of_what_is_in_tiles_their_number_is_named() -> None:
    table = records((4000, 3000, 1), (3000, 4000, 6), (600, 400, 1))
    found = sizes_of(table, Geometry(large="tile"), SD)
    assert found.working == {"4032x3008": 2, "640x448": 1}
    assert found.tiles == {"4032x3008": 88}
    assert sizes_of(table, Geometry(), SD).tiles == {}
