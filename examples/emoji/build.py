"""Build the emoji data set: fetch six pinned npm packages, rasterise, split, write one Parquet file.

    python examples/emoji/build.py            # needs the npm client; writes examples/emoji/emoji.parquet

One row is one picture of one symbol in one style. The four styles draw the same symbols, so a held-out
truth exists for every translation. Names and keywords for captions are Unicode CLDR's. Left out: skin-tone
variants, flags, symbols that are not drawn in all four styles, and the reserved symbols (see `split_of`).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

SIZE = 64
HERE = Path(__file__).parent
RESERVED_BUCKET = 9

SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),  # lower-case hyphenated code points without U+FE0F
        ("name", pa.string()),
        ("category", pa.string()),
        ("style", pa.string()),
        ("split", pa.string()),
        ("licence", pa.string()),
        ("source", pa.string()),  # npm package and version
        ("image", pa.binary()),  # lossless WebP, 64x64 RGB on white
        ("cldr_name", pa.string()),  # the symbol's short name in English, of Unicode CLDR
        ("keywords", pa.list_(pa.string())),  # and its keywords
    ],
    metadata={"schema": "lsb.emoji/2"},
)


@dataclass(frozen=True)
class Package:
    """One npm package, pinned by version and by the SHA-512 of its archive (Subresource Integrity)."""

    part: str  # the style, or the section of the CLDR annotations
    name: str
    version: str
    integrity: str
    licence: str


PACKAGES = (
    Package(
        "flat",
        "@lobehub/fluent-emoji-flat",
        "1.1.0",
        "sha512-lPYCg8+N56MIj+iOgeBeH6AF0tneXxJCvgi41rOTjAWpA5rU2WUcmU1fiIXouEe8GrSTarWCYLY2ML+rdLRHsg==",
        "MIT",
    ),
    Package(
        "3d",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        "MIT",
    ),
    Package(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
    ),
    Package(
        "twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
    ),
)
# Sequences such as "woman: red hair" are in the derived annotations.
ANNOTATIONS = (
    Package(
        "annotations",
        "cldr-annotations-full",
        "48.2.0",
        "sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
        "Unicode-3.0",
    ),
    Package(
        "annotationsDerived",
        "cldr-annotations-derived-full",
        "48.2.0",
        "sha512-log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
        "Unicode-3.0",
    ),
)


def symbol_of(code_points: str) -> str:
    """`0023-FE0F-20E3` -> `0023-20e3`: lower case, U+FE0F dropped."""
    return "-".join(part for part in code_points.lower().split("-") if part != "fe0f")


def split_of(symbol: str) -> str | None:
    """Split of a symbol, the same in every style; None for a reserved symbol, which nothing may show.

    First byte of SHA-256 of the symbol, modulo 10: 0-6 train, 7 validation, 8 test, 9 reserved.
    """
    bucket = hashlib.sha256(symbol.encode()).digest()[0] % 10
    if bucket == RESERVED_BUCKET:
        return None
    return "train" if bucket < 7 else "validation" if bucket == 7 else "test"


def is_variant(symbol: str) -> bool:
    """True for skin-tone variants and flags."""
    points = [int(part, 16) for part in symbol.split("-")]
    skin = any(0x1F3FB <= p <= 0x1F3FF for p in points)
    flag = points[0] in (0x1F3F3, 0x1F3F4, 0x1F3C1, 0x1F6A9, 0x1F38C) or all(0x1F1E6 <= p <= 0x1F1FF for p in points)
    return skin or flag


def fetch(package: Package, folder: Path) -> Path:
    """Archive of `package`, downloaded by the npm client and checked against its pinned digest."""
    listed = subprocess.run(
        ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    archive = folder / listed.stdout.split()[-1]
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        raise SystemExit(
            f"{package.name}@{package.version}: digest sha512-{digest}, expected {package.integrity}; "
            "the registry served another archive, nothing was written"
        )
    return archive


def on_white(image: Image.Image) -> Image.Image:
    """RGB copy at SIZE x SIZE on white ground, colours premultiplied before the resize."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    flat = Image.alpha_composite(white, rgba).convert("RGB")
    return flat.resize((SIZE, SIZE), Image.Resampling.LANCZOS) if flat.size != (SIZE, SIZE) else flat


def rasterise(svg: str) -> Image.Image:
    """Render an SVG at four times the final size, so that edges are as soft as in the WebP sources."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=4 * SIZE, height=4 * SIZE)
    return Image.open(io.BytesIO(bytes(png)))


def assets(archive: Path) -> Iterator[tuple[str, Image.Image]]:
    """(symbol, picture) of a package that ships one file per symbol."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.parent.name != "assets" or is_variant(symbol_of(path.stem)):
                continue
            handle = tar.extractfile(member)
            if handle is None:
                continue
            data = handle.read()
            picture = rasterise(data.decode()) if path.suffix == ".svg" else Image.open(io.BytesIO(data))
            yield symbol_of(path.stem), picture


def packed_json(archive: Path, name: str) -> dict:
    """One JSON file of a package."""
    with tarfile.open(archive) as tar:
        handle = tar.extractfile(f"package/{name}.json")
        if handle is None:
            raise SystemExit(f"{archive.name} holds no {name}.json")
        return json.load(handle)


def icons(archive: Path) -> Iterator[tuple[str, Image.Image]]:
    """(symbol, picture) of an Iconify package."""
    book = packed_json(archive, "icons")
    for code_points, slug in packed_json(archive, "chars").items():
        icon = book["icons"].get(slug)
        if icon is None or is_variant(symbol_of(code_points)):
            continue
        width, height = icon.get("width", book["width"]), icon.get("height", book["height"])
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )
        yield symbol_of(code_points), rasterise(svg)


def names(archive: Path) -> dict[str, tuple[str, str]]:
    """Symbol -> (name in words, category), from the Noto package's own metadata."""
    category_of = {
        slug: category.lower()
        for category, slugs in packed_json(archive, "metadata")["categories"].items()
        for slug in slugs
    }
    return {
        symbol_of(points): (re.sub(r"[-_]+", " ", slug), category_of.get(slug, "other"))
        for points, slug in packed_json(archive, "chars").items()
    }


def cldr_words(archives: dict[str, Path]) -> dict[str, tuple[str, list[str]]]:
    """Symbol -> (short name, keywords) in English, from the two packages of Unicode CLDR."""
    found: dict[str, tuple[str, list[str]]] = {}
    for package in ANNOTATIONS:
        book = packed_json(archives[package.part], f"{package.part}/en/annotations")[package.part]["annotations"]
        for characters, words in book.items():
            symbol = symbol_of("-".join(f"{ord(character):04x}" for character in characters))
            found.setdefault(symbol, (words["tts"][0], words.get("default", [])))
    return found


def webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def build(destination: Path) -> pa.Table:
    """Fetch, rasterise, keep the symbols that all four styles draw, and write the Parquet file."""
    with tempfile.TemporaryDirectory() as scratch:
        archives = {package.part: fetch(package, Path(scratch)) for package in (*PACKAGES, *ANNOTATIONS)}
        words, cldr = names(archives["noto"]), cldr_words(archives)
        pictures: dict[str, dict[str, bytes]] = {}
        for package in PACKAGES:
            read = icons if package.name.startswith("@iconify") else assets
            for symbol, picture in read(archives[package.part]):
                if split_of(symbol) is not None and symbol in words:
                    pictures.setdefault(symbol, {})[package.part] = webp(on_white(picture))
    rows = []
    for symbol in sorted(pictures):
        drawn = pictures[symbol]
        name, category = words[symbol]
        cldr_name, keywords = cldr[symbol]
        if len(drawn) < len(PACKAGES) or category == "flags":
            continue
        for package in PACKAGES:
            rows.append(
                {
                    "symbol": symbol,
                    "name": name,
                    "category": category,
                    "style": package.part,
                    "split": split_of(symbol),
                    "licence": package.licence,
                    "source": f"{package.name}@{package.version}",
                    "image": drawn[package.part],
                    "cldr_name": cldr_name,
                    "keywords": keywords,
                }
            )
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, destination, compression="zstd", compression_level=19)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "emoji.parquet")
    destination = parser.parse_args().out
    table = build(destination)
    counts = table.group_by(["split", "style"]).aggregate([("symbol", "count")]).to_pandas()
    print(counts.sort_values(["split", "style"]).to_string(index=False))
    print(f"{destination}: {table.num_rows} rows, {destination.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
