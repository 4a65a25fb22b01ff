"""Claims about the page's files: the right ones, of the right type, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon import Answer, Reached, Served
from test_admin import Broken, guarded, problem

from proxy.shell.admin import Admin
from proxy.shell.page import FOLDER, Page

__all__ = ["guarded"]  # a fixture that lives in `test_admin`


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A page as it might be, and a secret beside it."""
    folder = tmp_path / "page"
    (folder / "static" / "lib").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>it</title>")
    (folder / "app.js").write_text("let at = 'top'")
    (folder / "static" / "app.css").write_text("body {}")
    (folder / "static" / "lib" / "chart.js").write_text("let chart")
    (folder / "static" / "notes.py").write_text("no = 1")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


async def ask(folder: Path, path: str, headers: dict[str, str] | None = None) -> Answer:
    admin = Admin(Broken(), [Page(folder)])  # type: ignore[arg-type]  # it is never asked
    host, port = await admin.start("127.0.0.1", 0, (), None)
    try:
        return await Reached(beacons="", admin=f"{host}:{port}").ask(path, headers=headers)
    finally:
        await admin.close()


@pytest.mark.parametrize("view", ["/", "/hits", "/hits/17", "/dead", "/health", "/hits?q=is:dead"])
async def test_each_view_of_the_page_has_an_address(folder: Path, view: str) -> None:
    answer = await ask(folder, view)

    assert (answer.status, answer.body) == (200, b"<!doctype html><title>it</title>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "name, kind",
    [("app.js", "text/javascript"), ("app.css", "text/css"), ("lib/chart.js", "text/javascript")],
)
async def test_a_file_has_the_type_a_browser_wants(folder: Path, name: str, kind: str) -> None:
    """With nosniff, a script of another type is not run."""
    answer = await ask(folder, f"/static/{name}")

    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(kind)


async def test_a_file_a_browser_has_is_not_sent_again(folder: Path) -> None:
    """Until it is another one: what is shown is what this daemon serves."""
    first = await ask(folder, "/static/app.js")
    tag = first.headers["Etag"]

    assert first.headers["Cache-Control"] == "no-cache"
    again = await ask(folder, "/static/app.js", {"If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")
    (folder / "app.js").write_text("let at = 'bottom'")
    assert (await ask(folder, "/static/app.js", {"If-None-Match": tag})).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../secret.txt",
        "/static/..%2Fsecret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/lib/../../../secret.txt",
        "/static//etc/passwd",
        "/static/%00",
        "/static/",
        "/static/static/notes.py",
        "/static/notes.py",
        "/index.html",
        "/secret.txt",
        "/hits/x",
    ],
)
async def test_nothing_else_can_be_had(folder: Path, path: str) -> None:
    """A name that was not read at the start leads nowhere, however it is spelled."""
    problem(await ask(folder, path), 404)


async def test_the_page_may_be_had_without_the_token(guarded: Served) -> None:
    """It is what asks for the token; it holds nothing but itself."""
    for path in ("/", "/hits", "/static/app.js"):
        assert (await guarded.ask(path)).status in (200, 404), path
    problem(await guarded.ask("/api/v1/hits"), 401)
    problem(await guarded.ask("/hits/x"), 401)


async def test_a_rebound_name_gets_no_page(served: Served) -> None:
    problem(await served.ask("/", headers={"Host": "attacker.example"}), 421)


async def test_the_page_that_is_served_is_the_package_s(served: Served) -> None:
    """Whatever the page's folder holds can be asked for, and is as it lies there."""
    for file in FOLDER.rglob("*.js"):
        answer = await served.ask(f"/static/{file.relative_to(FOLDER).as_posix()}")
        assert answer.body == file.read_bytes()
