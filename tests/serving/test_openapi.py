from typing import get_args

from resight.serving.openapi import document
from resight.serving.request import Kind, Route
from resight.serving.routes import route


def test_every_path_of_the_document_is_one_of_the_server():
    paths = document("signs", token=False)["paths"]
    own = {"/healthz", "/readyz", "/metrics"}
    for path, methods in paths.items():
        for method in methods:
            assert path in own or isinstance(route(method.upper(), path), Route)
    kinds = {route(method.upper(), path).kind for path in paths.keys() - own for method in paths[path]}
    assert kinds == set(get_args(Kind))


def test_it_says_what_a_token_is_for():
    told = document("signs", token=True)
    assert told["security"] == [{"bearer": []}] and "bearer" in told["components"]["securitySchemes"]
    assert [path for path, methods in told["paths"].items() if methods.get("get", {}).get("security") == []] == [
        "/v2/health/live", "/v2/health/ready", "/healthz", "/readyz",
    ]  # fmt: skip
    assert "security" not in document("signs", token=False)


def test_it_is_an_openapi_document():
    from fastapi.openapi.models import OpenAPI

    OpenAPI.model_validate(document("signs", token=True))
