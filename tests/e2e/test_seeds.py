"""What the seeds print is what people type: every curl of theirs, and the playbook, against the whole product."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import SEED_OWNER, SEED_TENANT
from tests.product import ROOT, Product

SEEDS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests/payloads/seeds").glob("*.md"))}
SCRIPT = ROOT / "deploy/scripts/reauth-instance.sh"
PASSWORD = "abacaxi-maduro-7"


def fences(text: str) -> list[str]:
    """The code of a document, block by block."""
    return re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.S | re.M)


def commands(text: str) -> list[str]:
    """Each command with a curl that a document prints beside its scripts of several steps, continued lines joined."""
    found = re.findall(r"(?<!`)`(curl [^`]+)`(?!`)", text)
    for block in fences(text):
        if block != playbook():
            found += [line.strip() for line in block.replace("\\\n", " ").splitlines() if "curl " in line]
    return found


def playbook() -> str:
    """The script of seed 004, section 2.2."""
    return next(block for block in fences(SEEDS["004"]) if "# reauth-instance.sh" in block)


class Seeds:
    """A tenant of its own, and a shell in which the seeds' commands are typed."""

    def __init__(self, product: Product, directory: Path) -> None:
        self.product, self.directory = product, directory
        self.name = f"loja-{uuid.uuid4().hex[:6]}"
        (directory / ".curlrc").write_text("silent\n")
        product.provision(
            {
                "tenants": [
                    {
                        "slug": SEED_TENANT, "name": "Sementes", "queues": [{"name": "Recepção"}],
                        "users": [
                            {"email": SEED_OWNER, "name": "Eva", "password": PASSWORD, "role": "ADMIN", "queues": []}
                        ],
                    }
                ]
            }
        )  # fmt: skip

    @property
    def key(self) -> str:
        return self.product.env["API_KEY"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(
            method, self.product.url + path, json=body, headers={"X-API-Key": self.key}, timeout=30
        )
        assert answer.ok, answer.text
        return answer.json()["data"]

    def make(self, name: str) -> str:
        """A new connection; the broker's name of it."""
        self.ask("POST", "/instance/create", {"name": name})
        self.ask("POST", f"/instance/{name}/connect")
        with self.product.database() as connection:
            sql = "SELECT broker_instance_id FROM whatsapp_sessions WHERE connection_id = %s AND deleted_at IS NULL"
            return str(connection.execute(sql, [name]).fetchall()[0][0])

    def open(self, name: str) -> None:
        """Somebody scans."""
        instance = self.make(name)
        self.product.simulate(f"/_sim/{instance}/open", {"phone": "5511912345678"})
        self.product.wait_for(lambda: self.ask("GET", f"/instance/{name}/status")["status"] == "connected")

    def typed(self, command: str, connection_id: str = "") -> str:
        """A command of a seed with host, port, key and name replaced, and nothing else."""
        command = re.sub(r"http://localhost:(?:8080|3000|15672)", self.product.url, command)
        command = re.sub(r"X-API-Key: (?:your-api-key|key)\b", f"X-API-Key: {self.key}", command)
        command = command.replace("guest:guest", f"guest:{self.key}").replace("[ID]", connection_id)
        return command.replace("instance/NAME/", f"instance/{self.name}/")

    def run(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        environ = {
            **os.environ, "CURL_HOME": str(self.directory), "API_URL": self.product.url,
            "WHATSAPP_BROKER_API_KEY": self.product.env["WHATSAPP_BROKER_API_KEY"], **more,
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )


@pytest.fixture(scope="module")
def seeds(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    if product.env.get("API_KEY_TENANT") != SEED_TENANT:
        pytest.skip("the product was started by someone else")
    missing = [tool for tool in ("curl", "jq", "qrencode") if shutil.which(tool) is None]
    if missing and os.geteuid() == 0:
        subprocess.run(["apt-get", "install", "-y", "-qq", *missing], check=False, capture_output=True, timeout=120)
    if still := [tool for tool in missing if shutil.which(tool) is None]:
        pytest.skip(f"apt-get cannot deliver what the seeds' commands need: {', '.join(still)}")
    return Seeds(product, tmp_path_factory.mktemp("seeds"))


def done(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_session_n04_every_curl_of_the_seeds_succeeds(seeds: Seeds, tmp_path: Path) -> None:
    # Whatever curl is told, an answer of 400 or more is a failure here.
    (tmp_path / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    found = {seed: commands(text) for seed, text in SEEDS.items()}
    assert {seed: len(lines) for seed, lines in found.items()} == {"000": 1, "002": 3, "004": 7}
    counted = sum(text.count("curl ") for text in SEEDS.values())
    assert sum(map(len, found.values())) + playbook().count("curl ") == counted, "none was overlooked"
    seeds.open(seeds.name)
    connection_id, answers = "", {}
    for seed, lines in found.items():
        for line in lines:
            command = seeds.typed(line, connection_id)
            code, out, err = done(seeds.run("-o", "pipefail", "-c", command, CURL_HOME=str(tmp_path)))
            assert code == 0, (seed, line, out, err)
            answers[line] = out
            if "POST" in line:
                connection_id = json.loads(out)["data"]["connectionId"]
    said = [json.loads(out) for line, out in answers.items() if "metrics" not in line]
    by_line = dict(zip([line for line in answers if "metrics" not in line], said, strict=True))

    def one(word: str) -> Any:
        return next(answer for line, answer in by_line.items() if word in line)

    assert (one("healthz")["mode"], one("healthz")["status"]) == ("http", "running")
    assert re.fullmatch(r"connection_\d{13}", connection_id)
    assert one("[ID]/qr")["data"]["connectionState"] in {"connecting", "connected"}
    assert one("NAME/status")["data"]["status"] == "connected"
    assert seeds.name in {row["name"] for row in one("instance/list")["data"]["instances"]}
    assert "whatsapp.send.messages" in {row["name"] for row in one("/api/queues")}
    assert one("8080/health")["service"] == "leadengine"
    assert set(one("/contents")) == {"purged"}
    metrics = next(out for line, out in answers.items() if "metrics" in line)
    assert "turbozap_instances_active" in metrics


def test_operations_t23_to_t27_the_playbook_runs_as_printed(seeds: Seeds) -> None:
    """Its ways through at once, for it sleeps: to a code, already open, and to nothing."""
    printed = playbook()
    text = printed.replace("http://localhost:8080", seeds.product.url).replace("your-api-key", seeds.key)
    assert sum(a != b for a, b in zip(printed.splitlines(), text.splitlines(), strict=True)) == 2
    script = seeds.directory / "reauth-instance.sh"
    script.write_text(text)
    new, ready = f"{seeds.name}-nova", f"{seeds.name}-pronta"
    seeds.ask("POST", "/instance/create", {"name": new})
    seeds.open(ready)
    runs = [seeds.run(str(script), name) for name in (new, ready, f"{seeds.name}-nenhuma")]
    (code, out, _), (ready_code, ready_out, _), (no_code, no_out, _) = [done(run) for run in runs]
    assert code == 0, out
    assert "QR Code gerado" in out
    assert any(block in out for block in "█▄▀"), "it is drawn in the terminal"
    assert (ready_code, "já conectada" in ready_out) == (0, True)
    assert (no_code, "Falha na conexão" in no_out) == (1, True)


def test_operations_t26_our_script_draws_the_code_and_waits_for_the_scan(seeds: Seeds) -> None:
    new = f"{seeds.name}-outra"
    instance = seeds.make(new)
    process = seeds.run(str(SCRIPT), new, API_KEY=seeds.key, WAIT_SECONDS="60")
    assert process.stdout is not None
    seen = ""
    while not any(block in seen for block in "█▄▀"):
        line = process.stdout.readline()
        assert line, (seen, done(process))
        seen += line
    seeds.product.simulate(f"/_sim/{instance}/open", {"phone": "5511912345679"})
    code, out, err = done(process, 90)
    assert (code, "Conectado com sucesso" in out) == (0, True), (out, err)
    assert seeds.key not in seen + out + err
    for arguments, more, wanted, sentence in (
        ((new,), {"API_KEY": seeds.key}, 0, "já conectada"),
        (("nenhuma",), {"API_KEY": seeds.key}, 1, "não encontrada"),
        ((new,), {"API_KEY": "0" * 64}, 1, "Invalid API key"),
        ((new,), {"API_KEY": seeds.key, "API_URL": "http://127.0.0.1:9"}, 1, "não responde"),
        ((new,), {"API_KEY": ""}, 2, "API_KEY"),
        (("a b",), {"API_KEY": seeds.key}, 2, "Uso"),
    ):
        code, out, err = done(seeds.run(str(SCRIPT), *arguments, **more))
        assert (code, sentence in out + err) == (wanted, True), (arguments, out, err)
