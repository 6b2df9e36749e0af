"""Kafka's jars: fetched once from Maven Central by `mvn`, as the pom beside this file says, into a cache folder."""

import fcntl
import os
import re
import shutil
import subprocess
from importlib.resources import as_file, files
from pathlib import Path

from holdfast.errors import Mendable

JAVA_MIN = 17
_FETCH_SECONDS_MAX = 600
_POM = files("holdfast.engines") / "kafka" / "pom.xml"


def cache_folder() -> Path:
    """Where what was fetched is kept: HOLDFAST_CACHE_DIR, or the user's cache."""
    if given := os.environ.get("HOLDFAST_CACHE_DIR"):
        return Path(given).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "holdfast"


def missing_tool() -> str | None:
    """Why no broker can run here, as a sentence that says what to do; None where one can."""
    java = shutil.which("java")
    if java is None:
        return f"Kafka needs Java {JAVA_MIN} or newer: install it (openjdk-17-jre-headless on Debian)."
    if not _complete(_folder()) and shutil.which("mvn") is None:
        return (
            "Kafka's jars are fetched by Maven: install it (maven on Debian), or give a broker by HOLDFAST_KAFKA_URL."
        )
    return None


def java() -> str:
    """The java program. Raises Mendable where there is none, or an old one."""
    if sentence := missing_tool():
        raise Mendable(sentence)
    program = shutil.which("java")
    assert program is not None
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    version = re.search(r'version "(\d+)', told)
    if version and int(version[1]) < JAVA_MIN:
        raise Mendable(f"Kafka needs Java {JAVA_MIN} or newer, and {program} is {version[1]}: install a newer one.")
    return program


def jars() -> Path:
    """The folder with the jars, fetched if they are not there yet. Raises Mendable where they cannot be."""
    folder = _folder()
    if _complete(folder):
        return folder
    if sentence := missing_tool():
        raise Mendable(sentence)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        # Two that start at once fetch once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _complete(folder):
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    repository = folder.parent / "maven"
    with as_file(_POM) as pom:
        # A repository of our own, so that nothing is written into a home; Maven's settings are the machine's.
        command = ["mvn", "--quiet", "--batch-mode", "--file", str(pom), f"-Dmaven.repo.local={repository}"]
        command += ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        try:
            ended = subprocess.run(  # noqa: S603
                command, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=_FETCH_SECONDS_MAX
            )
        except subprocess.TimeoutExpired as error:
            raise Mendable(
                f"Maven did not fetch Kafka's jars within {_FETCH_SECONDS_MAX} s: run this again."
            ) from error
    if ended.returncode:
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith("[ERROR]")]
        reason = lines[0].removeprefix("[ERROR] ") if lines else f"exit status {ended.returncode}"
        raise Mendable(f"Maven could not fetch Kafka's jars: {reason}. See whether it reaches Maven Central.")
    _mark(folder).touch()
    shutil.rmtree(repository, ignore_errors=True)


def _folder() -> Path:
    return cache_folder() / f"kafka-{_version()}"


def _version() -> str:
    found = re.search(r"kafka_2\.13</artifactId>\s*<version>([^<]+)<", _POM.read_text("utf-8"))
    assert found is not None, "the pom names Kafka's version"
    return found[1]


def _complete(folder: Path) -> bool:
    return _mark(folder).exists()


def _mark(folder: Path) -> Path:
    return folder / "complete"
