# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A model is fetched from a hub in two steps: what describes it, and, if that is fine, its weights.

The hub is a server on this machine that speaks the hub's protocol; the client is the real
``huggingface_hub``, in a process of its own because it reads its settings once.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from moe_mobile.model.safetensors import INDEX_FILE
from tests.tiny import write_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "Tiny-MoE"
OPEN = """
import json, sys
from moe_mobile.errors import MoeMobileError
from moe_mobile.model.source import open_model
for source in sys.argv[1:]:
    try:
        model = open_model(source)
        answer = {"label": model.label, "name": model.architecture.name,
                  "parameters": model.tensors.num_parameters(), "files": sorted(model.files)}
    except MoeMobileError as error:
        answer = {"kind": type(error).__name__, "file": str(error.file), "cause": error.cause,
                  "remedy": error.remedy}
    print(json.dumps(answer))
"""


class Hub:
    """Serves the models in a folder as "org/NAME"; ``asked`` has the files whose bytes went out, as
    (model, file)."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        self.without_weights = False
        self.claimed: dict[str, int] = {}  # other sizes of files than they have
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                url = urllib.parse.urlsplit(self.path)
                match url.path.removeprefix("/api/models").split("/")[1:]:
                    case ["org", model, *_] if not (hub.folder / model).is_dir():
                        self.send_error(404)
                    case ["org", model, "tree", _]:
                        entries = [hub.entry(model, name) for name in hub.names(model)]
                        if "recursive=true" not in url.query.lower():
                            entries = [one for one in entries if "/" not in one["path"]]
                        for one in entries:
                            one["size"] = hub.claimed.get(one["path"], one["size"])
                        self.send(json.dumps(entries).encode(), body)
                    case ["org", model, "revision", _]:
                        names = [{"rfilename": name} for name in hub.names(model)]
                        info = {"_id": "1", "id": f"org/{model}", "sha": COMMIT, "siblings": names}
                        self.send(json.dumps(info).encode(), body)
                    case ["org", _, "resolve", _, *parts] if hub.lacks(parts[-1]):
                        self.send_error(404)
                    case ["org", model, "resolve", commit, *parts] if commit == COMMIT:
                        name = "/".join(parts)
                        if body:
                            hub.asked.append((model, name))
                        data = (hub.folder / model / name).read_bytes()
                        self.send(data, body, etag=hub.entry(model, name)["oid"])
                    case _:
                        self.send_error(404)

            def send(self, data: bytes, body: bool, etag: str = "none") -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{etag}"')
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        host, port = self._server.server_address[:2]
        self.address = f"http://{host!s}:{port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def names(self, model: str) -> list[str]:
        folder = self.folder / model
        return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())

    def entry(self, model: str, name: str) -> dict[str, Any]:
        """As the hub lists a file."""
        data = (self.folder / model / name).read_bytes()
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "path": name, "size": len(data), "oid": oid}

    def lacks(self, name: str) -> bool:
        return self.without_weights and name.endswith(".safetensors")

    def weights(self) -> list[tuple[str, str]]:
        """Of what was asked for."""
        return [one for one in self.asked if one[1].endswith(".safetensors")]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: pathlib.Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    folder = write_checkpoint(hub.folder / MODEL, "qwen3_moe", shard_size="40KB")
    # The weights again, and what no export reads.
    for name in ("consolidated.safetensors", "pytorch_model.bin", "model.gguf", "README.md"):
        (folder / name).write_bytes(b"unused")
    yield hub
    hub.close()


def opened(hub: Hub, *models: str, **settings: str) -> list[dict[str, Any]]:
    """What opening the models gives, one after the other."""
    home = str(hub.folder.parent / "home")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": home, "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *(f"org/{model}" for model in models)],
        env=inherited | own | settings,
        cwd=hub.folder.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def change(folder: pathlib.Path, name: str, members: dict[str, Any]) -> None:
    file = folder / name
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**old, **members}))


def test_a_model_comes_from_a_hub(hub: Hub) -> None:
    folder = hub.folder / MODEL
    change(folder, "generation_config.json", {"eos_token_id": [2, 5]})
    tools = folder / "additional_chat_templates/tool_use.jinja"
    tools.parent.mkdir()
    tools.write_text("{{ tools }}")
    (answer,) = opened(hub, MODEL)
    assert (answer["label"], answer["name"]) == (f"org/{MODEL}", MODEL)
    names = [str(tools.relative_to(folder)), "config.json", "generation_config.json"]
    assert answer["files"] == names
    shards = {f.name for f in folder.glob("model-*.safetensors")}
    assert len(shards) > 1
    asked = [name for _, name in hub.asked]
    assert sorted(asked) == sorted({*answer["files"], INDEX_FILE, *shards})
    # All that describes the model was there before the first byte of its weights.
    first = min(asked.index(shard) for shard in shards)
    assert set(asked[:first]) == {*answer["files"], INDEX_FILE}
    # The client keeps what it fetched: without the hub it is all there.
    hub.asked.clear()
    assert opened(hub, MODEL, HF_HUB_OFFLINE="1") == [answer]
    assert hub.asked == []


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("config.json", {"hidden_act": "gelu"}, "UnsupportedError", "hidden_act = 'gelu'"),
    ("config.json", {"model_type": "llama"}, "UnsupportedError", "model_type 'llama'"),
    ("config.json", {"quantization_config": {"bits": 4}}, "UnsupportedError", "quantized"),
    ("generation_config.json", {"eos_token_id": [999]}, "CheckpointError", "eos_token_id must be"),
    ("tokenizer.json", {"model": None}, "CheckpointError", "tokenizer"),
    ("adapter_config.json", {"peft_type": "LORA"}, "UnsupportedError", "adapter"),
    (INDEX_FILE, {"weight_map": {"x": "../x"}}, "CheckpointError", "bad file name"),
]


def test_models_that_cannot_be_exported_cost_no_weights(hub: Hub) -> None:
    names = [f"refused-{number}" for number in range(len(REFUSED))]
    for name, (file, members, _, _) in zip(names, REFUSED, strict=True):
        shutil.copytree(hub.folder / MODEL, hub.folder / name)
        change(hub.folder / name, file, members)
    (hub.folder / "empty").mkdir()
    *answers, empty = opened(hub, *names, "empty")
    for answer, (file, _, kind, cause) in zip(answers, REFUSED, strict=True):
        assert (answer["kind"], pathlib.Path(answer["file"]).name) == (kind, file)
        assert cause in answer["cause"]
    assert (empty["kind"], empty["cause"]) == ("CheckpointError", "config.json is missing")
    assert hub.weights() == []
    assert {model for model, file in hub.asked if file == "config.json"} == set(names)


def test_weights_are_judged_by_the_hubs_lists(hub: Hub) -> None:
    """Of files, and of tensors."""
    names = ("gguf", "alone", "shards", "gptq")
    for name in names:
        shutil.copytree(hub.folder / MODEL, hub.folder / name)
    (hub.folder / "gguf" / "config.json").unlink()
    (hub.folder / "gguf" / INDEX_FILE).unlink()
    for file in (hub.folder / "alone").glob("model*.safetensors*"):
        file.unlink()
    (hub.folder / "shards" / INDEX_FILE).unlink()
    packed = "model.layers.0.self_attn.q_proj.qweight"
    shard = next((hub.folder / "gptq").glob("model-*.safetensors")).name
    change(hub.folder / "gptq", INDEX_FILE, {"weight_map": {packed: shard}})
    change(hub.folder / "gptq", "quantize_config.json", {"bits": 4})
    gguf, alone, shards, gptq = opened(hub, *names)
    assert (gguf["kind"], gptq["kind"]) == ("UnsupportedError", "UnsupportedError")
    assert "llama.cpp" in gguf["cause"]
    assert "llama.cpp" in alone["remedy"]
    assert f"{INDEX_FILE} is missing" in shards["cause"]
    assert "quantized with GPTQ" in gptq["cause"]
    assert hub.weights() == []


def test_weights_that_the_disk_has_no_room_for(hub: Hub) -> None:
    shard = next((hub.folder / MODEL).glob("model-*.safetensors")).name
    hub.claimed = {shard: 1 << 60, "consolidated.safetensors": 1 << 61}
    (answer,) = opened(hub, MODEL)
    assert answer["kind"] == "DiskFullError"
    assert "the weights to be downloaded need about 1048576.1 TiB more" in answer["cause"]
    assert hub.weights() == []
    # What is there needs no room, whatever the list says.
    hub.claimed = {}
    assert "label" in opened(hub, MODEL)[0]
    hub.claimed = {shard: 1 << 60}
    assert "label" in opened(hub, MODEL)[0]


def test_a_hub_that_has_no_such_model_or_does_not_answer(hub: Hub) -> None:
    hub.without_weights = True
    absent, cut = opened(hub, "absent", MODEL)
    assert (hub.folder.parent / "home" / "hub" / f"models--org--{MODEL}").is_dir()
    hub.close()
    shutil.rmtree(hub.folder.parent / "home")
    (silent,) = opened(hub, MODEL)
    for answer, model in ((absent, "absent"), (cut, MODEL), (silent, MODEL)):
        assert (answer["kind"], answer["file"]) == ("IoError", f"org/{model}")
        assert "downloading failed" in answer["cause"]
        # It was no folder's path if the model was there already.
        assert ("if you meant a folder" in answer["remedy"]) == (answer is not cut)
