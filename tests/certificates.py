"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def make(folder: Path, name: str, passphrase: str | None = None) -> tuple[Path, Path]:
    """A certificate of its own making for this machine, with this common name, and its key."""
    openssl = shutil.which("openssl")
    assert openssl, "these tests need the openssl command"
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2"
    names = f"-subj /CN={name} -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    guard = "-nodes" if passphrase is None else f"-passout pass:{passphrase}"
    files = ["-keyout", str(key), "-out", str(cert)]
    command = [openssl, *kind.split(), *names.split(), *guard.split(), *files]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
