"""Downloading against a server on this machine: resume, checksums, hostile archives, nothing
half-written."""

import hashlib
import io
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wbcjax.data import fetch as fetch_module
from wbcjax.data.download import SOURCES, STAGING, Source, download
from wbcjax.data.fetch import fetch
from wbcjax.data.unpack import tree_sha256, unpack
from wbcjax.errors import DataError

FILES = {"images/TRAIN/MONOCYTE/_0_1.jpeg": b"one" * 5000, "images/TEST/_1.jpeg": b"two", "labels.csv":
         b",Image\n", "notebooks/big.h5": b"unwanted"}
MAPPING = {"images/": "deep/images/", "labels.csv": "labels.csv"}


def zipped(files: dict[str, bytes], top: str = "repo-0123abc/") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
    return out.getvalue()


class Server:
    """Serves ``content`` at every path but /missing; its switches make it misbehave."""

    def __init__(self, content: bytes):
        self.content = content
        self.etag = '"v1"'
        self.ranges = True
        self.announce_length = True
        self.cut_after: list[int] = []
        """Bytes of the body to send before the connection is dropped, for each of the next requests."""
        self.statuses: list[int] = []
        """Error statuses for the next requests."""
        self.requests: list[str | None] = []
        """The Range header of every request."""
        handler = type("Handler", (BaseHTTPRequestHandler,),
                       {"do_GET": lambda request: self.answer(request), "log_message": lambda *args:
                       None})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/archive.zip"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01},
        daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.requests.append(asked)
        if "missing" in request.path:
            return request.send_error(404)
        if self.statuses:
            return request.send_error(self.statuses.pop(0))
        start = 0
        if asked and self.ranges and request.headers.get("If-Range") in (None, self.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(self.content)}")
                return request.end_headers()
            request.send_response(206)
            end = len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            request.send_response(200)
        request.send_header("ETag", self.etag)
        body = self.content[start:]
        if self.announce_length:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:self.cut_after.pop(0)] if self.cut_after else body)
        return None


@pytest.fixture
def server():
    server = Server(zipped(FILES))
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(fetch_module, "RETRY_SECONDS", (0.0, 0.0))


def source(server: Server, **changes) -> Source:
    return Source(**({"folder": "set", "url": server.url, "mapping": MAPPING} | changes))


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if
    path.is_file()}


WANTED = {"set/deep/images/TRAIN/MONOCYTE/_0_1.jpeg": FILES["images/TRAIN/MONOCYTE/_0_1.jpeg"],
          "set/deep/images/TEST/_1.jpeg": b"two", "set/labels.csv": b",Image\n"}


def test_lays_out_the_wanted_files_only(server, tmp_path):
    assert download(tmp_path, sources=[source(server)], progress=False) == tmp_path
    assert contents(tmp_path) == WANTED
    assert not (tmp_path / STAGING).exists()


def test_checksums_that_match_are_accepted_and_an_existing_tree_is_reused(server, tmp_path):
    download(tmp_path / "a", sources=[source(server)], progress=False)
    checked = source(server, tree_sha256=tree_sha256(tmp_path / "a" / "set"),
                     archive_sha256=hashlib.sha256(server.content).hexdigest())
    download(tmp_path / "b", sources=[checked], progress=False)
    assert contents(tmp_path / "b") == WANTED
    asked = len(server.requests)
    download(tmp_path / "b", sources=[checked], progress=False)
    assert len(server.requests) == asked


def test_resumes_by_itself_after_cuts(server, tmp_path):
    server.cut_after = [1000, 2000]
    download(tmp_path, sources=[source(server)], progress=False)
    assert server.requests == [None, "bytes=1000-", "bytes=3000-"]
    assert contents(tmp_path) == WANTED


def test_next_call_resumes(server, tmp_path):
    server.cut_after = [1000, 500, 0]
    with pytest.raises(DataError, match=r"failed after 1500 bytes.*run the command again"):
        download(tmp_path, sources=[source(server)], progress=False)
    assert not (tmp_path / "set").exists()
    download(tmp_path, sources=[source(server)], progress=False)
    assert server.requests[-1] == "bytes=1500-"
    assert contents(tmp_path) == WANTED


def test_a_file_that_changed_meanwhile_starts_over(server, tmp_path):
    server.cut_after = [1000, 0, 0]
    with pytest.raises(DataError):
        fetch(server.url, tmp_path / "a.zip")
    server.content, server.etag = b"other bytes altogether" * 100, '"v2"'
    fetch(server.url, tmp_path / "a.zip")
    assert contents(tmp_path) == {"a.zip": server.content}


def test_complete_part_needs_no_bytes(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(server.content)
    fetch(server.url, tmp_path / "a.zip")
    assert contents(tmp_path) == {"a.zip": server.content}


def test_part_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(server.content + b"more")
    fetch(server.url, tmp_path / "a.zip")
    assert contents(tmp_path) == {"a.zip": server.content}


@pytest.mark.parametrize("announce_length", [True, False])
def test_server_without_range_starts_over(server, tmp_path, announce_length):
    server.ranges, server.announce_length = False, announce_length
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    sizes = []
    fetch(server.url, tmp_path / "a.zip", on_size=lambda done, total: sizes.append((done, total)))
    assert contents(tmp_path) == {"a.zip": server.content}
    assert sizes[-1] == (len(server.content), len(server.content) if announce_length else None)


@pytest.mark.parametrize("what", ["tree_sha256", "archive_sha256"])
def test_wrong_checksum_leaves_nothing(server, tmp_path, what):
    with pytest.raises(DataError, match=r"SHA-256 [0-9a-f]{64}, expected 0{64}"):
        download(tmp_path / "root", sources=[source(server, **{what: "0" * 64})], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_existing_other_content_is_kept(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"other content.*move it away"):
        download(tmp_path, sources=[source(server, tree_sha256="0" * 64)], progress=False)
    assert contents(tmp_path) == {"set/mine.txt": b"mine"}


def test_not_found(server, tmp_path):
    url = server.url.replace("archive", "missing")
    with pytest.raises(DataError, match=f"{url}: the server answers 404"):
        download(tmp_path / "root", sources=[source(server, url=url)], progress=False)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = [503, 429]
    fetch(server.url, tmp_path / "a.zip")
    assert contents(tmp_path) == {"a.zip": server.content}


def test_no_connection(server, tmp_path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(DataError, match=r"the transfer failed after 0 bytes.*check the network"):
        download(tmp_path / "root", sources=[source(server)], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_bound(server, tmp_path):
    with pytest.raises(DataError, match="more than the 100 bytes expected"):
        download(tmp_path / "root", sources=[source(server, max_bytes=100)], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_only_http(tmp_path):
    with pytest.raises(DataError, match="only http and https"):
        fetch(f"file://{tmp_path}/x", tmp_path / "y")


def test_root_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        download(tmp_path / "file" / "root", sources=[source(server)], progress=False)


@pytest.mark.parametrize("name", ["../../evil", "images/../../evil", "/evil", "images/..\\evil", "C:/evil"])
def test_escaping_names_are_refused(server, tmp_path, name):
    server.content = zipped(FILES | {name: b"evil"}, top="" if name[0] in "/C" else "repo/")
    with pytest.raises(DataError, match="outside the folder"):
        download(tmp_path / "root", sources=[source(server)], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_symbolic_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("repo/images/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"images/link' is a symbolic link"):
        unpack(tmp_path / "a.zip", tmp_path / "out", {"images/": ""}, max_bytes=1000)
    assert not (tmp_path / "out").exists()


def test_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("repo/images/zeros", bytes(1_000_000))
    with pytest.raises(DataError, match="1000000 bytes"):
        unpack(tmp_path / "a.zip", tmp_path / "out", {"images/": ""}, max_bytes=10_000)
    assert not (tmp_path / "out").exists()


def test_two_members_of_one_place_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"a/x": b"1", "b/x": b"2"}))
    with pytest.raises(DataError, match="two members would be written to x"):
        unpack(tmp_path / "a.zip", tmp_path / "out", {"a/": "", "b/": ""}, max_bytes=1000)


def test_archive_without_a_wanted_part(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"a/x": b"1"}))
    with pytest.raises(DataError, match=r"a\.zip lacks b/, LICENSE"):
        unpack(tmp_path / "a.zip", tmp_path / "out", {"a/": "", "b/": "", "LICENSE": "LICENSE"},
        max_bytes=1000)


@pytest.mark.parametrize("damage", [lambda c: c[:200], lambda c: b"",
                                    lambda c: c.replace(b"oneone", b"oneuno", 1)])
def test_damaged_archive(server, tmp_path, damage):
    server.content = damage(server.content)
    with pytest.raises(DataError, match="no intact ZIP archive"):
        download(tmp_path / "root", sources=[source(server)], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_tree_sha256_by_hand(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"1")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"ignored")
    lines = f"{hashlib.sha256(b'').hexdigest()}  a\n{hashlib.sha256(b'1').hexdigest()}  b/x\n"
    assert tree_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "a").rename(tmp_path / "c")
    assert tree_sha256(tmp_path) != hashlib.sha256(lines.encode()).hexdigest()


def test_the_real_data_has_the_pinned_content(data_root):
    for public in SOURCES:
        if (data_root / public.folder).exists():
            assert tree_sha256(data_root / public.folder) == public.tree_sha256, public.folder
