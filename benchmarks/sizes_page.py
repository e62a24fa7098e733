"""The page of what `sizes.py` has measured."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

PARTS = ("run", "linear", "vae", "vae-512", "shift", "look", "seams", "narrow", "narrow-tiles", "full", "full-tiles")


def markdown(result: dict[str, Any]) -> str:
    """Of the parts that are in the result."""
    where = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Any picture at its own size",
        "",
        *_wrapped(
            f"Made by `python benchmarks/sizes.py` on {result['date']}, on {result['machine']}; {where}. Photographs "
            "are those of scikit-image and scikit-learn. The narrow and the full model have random weights, the "
            "strides of Stable Diffusion 1.5, and few channels or its widths: of them only sizes, memory and seams say "
            "anything."
        ),
    ]
    if registered := {part: result[part] for part in AUTOENCODERS if part in result}:
        lines += ["", *_registered(registered)]
    for part, described in SECTIONS.items():
        if part in result:
            lines += ["", *described(result[part])]
    memory = [(part, result[part]) for part in ("narrow", "narrow-tiles", "full", "full-tiles") if part in result]
    if memory:
        lines += ["", *_memory(memory)]
    if missing := [part for part in PARTS if part not in result]:
        lines += ["", f"Not measured here: {', '.join(f'`{part}`' for part in missing)}."]
    return "\n".join([*lines, ""])


def _run(found: dict[str, Any]) -> list[str]:
    return [
        "## Sizes in, sizes out",
        "",
        *_wrapped(
            f"`lsb run` of {found['files']} files of as many sizes (RGB, CMYK, grey, with transparency, rotated) "
            f"through the narrow model: exit code {found['exit_code']}, {found['ok']} rows ok, {found['same_size']} "
            f"outputs as large as their sources, {found['flat_sides']} sides of one colour where the source's has more."
        ),
    ]


def _registered(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            AUTOENCODERS[part],
            f"{one['median_shift_px']} / {one['largest_shift_px']} ({one['at']})",
            one["largest_shift_in_network_px"],
            one["above_half_px"],
            f"{one['mean_psnr_loss_db']} / {one['largest_psnr_loss_db']}",
            one["flat_sides"],
        ]
        for part, one in found.items()
    ]
    return [
        "## Where pictures lie",
        "",
        *_wrapped(
            "The 40 pictures through geometry and an autoencoder alone. Shifts between source and output by phase "
            "correlation of the lower half of the frequencies that the output can hold; the linear stand-in averages "
            "8 x 8 pixels and enlarges bilinearly, and so holds an eighth of them. The loss is of PSNR at "
            "`geometry.output: model`, against the same pixels without what is added at the edges."
        ),
        "",
        *_table(
            [
                "autoencoder",
                "shift in px, median / largest",
                "largest in the network's px",
                "above 0.5 px",
                "loss in dB, mean / largest",
                "flat sides",
            ],
            rows,
        ),
    ]


def _shift(found: dict[str, Any]) -> list[str]:
    rows = [
        [name, one["mean_abs"], one["channel_mean"], one["whole_to_source"], one["tiled_to_source"]]
        for name, one in found["pictures"].items()
    ]
    return [
        "## The autoencoder in tiles",
        "",
        "The embedded model's, photographs of 256 x 192 in 20 tiles against the same as a whole, in levels of 255.",
        "",
        *_table(
            ["picture", "mean difference", "largest of a channel's mean", "whole to source", "tiles to source"], rows
        ),
    ]


def _look(found: dict[str, Any]) -> list[str]:
    rows = [[name, one["contrast"], one["edges"]] for name, one in found.items() if isinstance(one, dict)]
    return [
        "## Squares and other shapes",
        "",
        "The embedded model: contrast and edges of outputs as shares of their sources', means over the photographs.",
        "",
        *_table(["shape", "contrast", "edges"], rows),
    ]


def _seams(found: dict[str, Any]) -> list[str]:
    pictures = {name: one for name, one in found.items() if isinstance(one, dict)}
    return ["## Seams", "", "The embedded model in tiles; " + _HOW, "", *_seam_table(pictures)]


_HOW = "steps between neighbours where tiles begin, end or are evenly blended, as a share of all that lie like them."


def _seam_table(pictures: dict[str, dict[str, Any]]) -> list[str]:
    rows = []
    for name, one in pictures.items():
        for where, steps in one.items():
            if isinstance(steps, dict):
                place = where.replace("_", " ")
                rows.append([name, one["size"], one["tiles"], place, steps["ratio"], steps["source_ratio"]])
    return _table(["picture", "size", "tiles", "place", "share", "of the source"], rows)


def _memory(parts: list[tuple[str, dict[str, Any]]]) -> list[str]:
    rows = [
        [part, one.get("size") or ", ".join(one["sizes"]), one.get("tiles", ""), one["peak_mib"], one["seconds"]]
        for part, one in parts
    ]
    tiled = {part: one for part, one in parts if "tiles" in one}
    lines = [
        "## Memory",
        "",
        *_wrapped(
            "Peak of the whole process (`ru_maxrss`), the model included. A picture of 4000 x 3000 has 34.3 MiB, and "
            "is held as source, as working picture and as output; `narrow` is one batch of four pictures, `full` "
            "goes picture by picture."
        ),
        "",
        *_table(["model", "pictures", "tiles", "peak MiB", "seconds"], rows),
    ]
    return [*lines, "", f"In tiles, {_HOW}", "", *_seam_table(tiled)] if tiled else lines


AUTOENCODERS = {
    "linear": "linear stand-in",
    "vae": "the embedded model's, at its own 64 x 64",
    "vae-512": "the same at 512 x 512",
}
SECTIONS = {"run": _run, "shift": _shift, "look": _look, "seams": _seams}


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_on_hyphens=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
