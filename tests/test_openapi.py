"""The OpenAPI description: valid, without a warning, and of every route."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from django.core.management import call_command
from django.test import Client

from tests.api import by_cookie
from tests.conftest import World
from tests.test_tenant_wall import ROUTES

NOT_DESCRIBED = {"api-schema", "api-unknown", "api-gone"}

OTHER_TONGUES = ("turbozap-", "operator-")  # they speak as other products do, whose own documents describe them


def test_schema_is_valid_and_covers_every_route(tmp_path: Path) -> None:
    file = tmp_path / "schema.yaml"
    call_command("spectacular", validate=True, fail_on_warn=True, file=str(file))
    schema = yaml.safe_load(file.read_text())
    routes = {
        "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.path)
        for route in ROUTES
        if route.is_api and route.name not in NOT_DESCRIBED and not route.name.startswith(OTHER_TONGUES)
    }
    assert routes == set(schema["paths"])
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            assert answers["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/Refused"), path
            good = [code for code in answers if code.startswith("2")]
            assert good, (path, method)
            assert good == ["204"] or "content" in answers[good[0]], (path, method)


@pytest.mark.django_db
def test_schema_is_served_to_those_who_signed_in(world: World) -> None:
    assert by_cookie(world.agent).get("/api/schema/").status_code == 200
    assert Client().get("/api/schema/").status_code == 401
