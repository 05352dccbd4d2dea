"""Looks for secrets in tracked files, and for what is taken from elsewhere without a version. Needs no network.

    scripts/secrets_and_pins.py [FOLDER]

Prints one line for each find; the exit code is 1 if there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# What real ones look like. Each expression is written so that it does not find itself.
SECRETS = {
    "a private key": r"-{5}BEGIN (?:[A-Z]+ )?PRIVATE KEY-{5}\s*\n[A-Za-z0-9+/=\s]{64,}",
    "a key of this project": r"\bqs-[A-Za-z0-9_\-]{43}\b",
    "an OpenAI or Anthropic key": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_\-]{32,}\b",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{34}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a Google key": r"\bAIza[0-9A-Za-z_\-]{35}\b",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z\-]{20,}\b",
}
_IMAGE = re.compile(r"^\s*(?:FROM|image:)\s+(\S+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^ARG\s+(\w+)=(\S+)", re.MULTILINE)
_REQUIREMENT = re.compile(r'^\s*(?:[\w-]+ = \[)?"([A-Za-z0-9_.\-]+)(?:\[[^\]]*\])?([^"]*)"', re.MULTILINE)
_MOST_BYTES = 4 << 20


def main(root: Path) -> int:
    """Returns the exit code."""
    finds = [*secrets_in(root), *unpinned_in(root)]
    for find in finds:
        print(find)
    return 1 if finds else 0


def tracked(root: Path) -> Iterator[Path]:
    """Yields the files that git has."""
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        file = root / name
        if file.is_file() and not file.is_symlink():
            yield file


def secrets_in(root: Path) -> Iterator[str]:
    """Yields where something looks like a secret. It is not printed."""
    patterns = {what: re.compile(pattern) for what, pattern in SECRETS.items()}
    for file in tracked(root):
        if file.stat().st_size > _MOST_BYTES:
            continue
        text = file.read_bytes().decode("utf-8", "replace")
        for what, pattern in patterns.items():
            for found in pattern.finditer(text):
                line = text.count("\n", 0, found.start()) + 1
                yield f"{file.relative_to(root)}:{line}: looks like {what}; take it out, and make it void"


def unpinned_in(root: Path) -> Iterator[str]:
    """Yields images and packages that are taken in whatever version there is."""
    project = root / "pyproject.toml"
    if project.is_file():
        text = project.read_text(encoding="utf-8")
        begin, end = text.find("dependencies = ["), text.find("[project.scripts]")
        for name, rest in _REQUIREMENT.findall(text[begin : end if end > begin else None]):
            if not re.match(r"\s*(?:>=|==|~=)", rest):
                yield f"pyproject.toml: {name} has no least version; give one"
    deploy = root / "deploy"
    for file in sorted(deploy.rglob("*")) if deploy.is_dir() else ():
        if file.name.startswith("Dockerfile") or file.name.startswith("compose"):
            yield from _images(root, file)


def _images(root: Path, file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    arguments = dict(_ARGUMENT.findall(text))
    stages = set(re.findall(r"^FROM\s+\S+\s+AS\s+(\S+)", text, re.MULTILINE | re.IGNORECASE))
    for image in _IMAGE.findall(text):
        given = re.sub(r"\$\{?(\w+)\}?$", lambda name: arguments.get(name[1], name[0]), image)
        given = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", given)
        if given in stages or given.startswith(("qwenserve-", "$")):
            continue
        tag = given.rpartition("/")[2].partition(":")[2]
        if not tag or tag == "latest":
            yield f"{file.relative_to(root)}: image {given} has no version; give one"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()))
