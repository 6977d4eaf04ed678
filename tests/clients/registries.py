"""Lays out what registries serve, as static files: packages that exist nowhere else.

usage: registries.py FOLDER URL

FOLDER will be served at URL. Afterwards there are
  URL/simple/            a PyPI simple index with partner-package 1.0
  URL/npm/               an npm registry with partner-package 1.0.0
  URL/cargo/             a sparse cargo index with partner-package 1.0.0
"""

import base64
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import zipfile

NAME = "partner-package"


def tar(files):
    """A gzipped archive of these names and texts."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def simple(folder):
    page = folder / "simple" / NAME
    page.mkdir(parents=True)
    wheel = "partner_package-1.0-py3-none-any.whl"
    info = "partner_package-1.0.dist-info"
    files = {
        "partner_package.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    with zipfile.ZipFile(page / wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(record, "".join(f"{name},,\n" for name in [*files, record]))
    digest = hashlib.sha256((page / wheel).read_bytes()).hexdigest()
    (page / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{wheel}#sha256={digest}">{wheel}</a></body></html>')


def npm(folder, url):
    registry = folder / "npm"
    (registry / "-").mkdir(parents=True)
    (registry / "-" / "ping").write_text("{}")
    package = {"name": NAME, "version": "1.0.0"}
    archive = tar({"package/package.json": json.dumps(package), "package/index.js": ""})
    (folder / "archives").mkdir(exist_ok=True)
    (folder / "archives" / "npm.tgz").write_bytes(archive)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    package["dist"] = {"tarball": f"{url}/archives/npm.tgz", "integrity": integrity}
    document = {"name": NAME, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": package}}
    (registry / NAME).write_text(json.dumps(document))


def cargo(folder, url):
    index = folder / "cargo"
    (index / "pa" / "rt").mkdir(parents=True)
    root = f"{NAME}-1.0.0"
    manifest = f'[package]\nname = "{NAME}"\nversion = "1.0.0"\nedition = "2021"\n'
    archive = tar({f"{root}/Cargo.toml": manifest, f"{root}/src/lib.rs": ""})
    (folder / "archives").mkdir(exist_ok=True)
    (folder / "archives" / f"{root}.crate").write_bytes(archive)
    (index / "config.json").write_text(json.dumps({"dl": f"{url}/archives/{{crate}}-{{version}}.crate"}))
    entry = {"name": NAME, "vers": "1.0.0", "deps": [], "features": {}, "yanked": False}
    entry["cksum"] = hashlib.sha256(archive).hexdigest()
    (index / "pa" / "rt" / NAME).write_text(json.dumps(entry) + "\n")


if __name__ == "__main__":
    folder, url = pathlib.Path(sys.argv[1]), sys.argv[2]
    simple(folder)
    npm(folder, url)
    cargo(folder, url)
