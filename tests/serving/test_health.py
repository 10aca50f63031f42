import pytest

from resight.serving.health import is_healthy, served_at

PYTHON = ["/opt/resight/bin/python3", "/opt/resight/bin/resight"]


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (["resight", "train", "--data", "/data", "--out", "/runs/serve"], None),
        (["sh", "-c", "sleep 1"], None),
        (["python3", "-m", "http.server", "serve"], None),
        ([*PYTHON, "serve", "signs.onnx"], ("127.0.0.1", 8501)),
        ([*PYTHON, "serve", "signs.onnx", "--host", "0.0.0.0", "--port", "80"], ("127.0.0.1", 80)),
        (["/sbin/docker-init", "--", "resight", "serve", "--port=80", "--host=::", "x"], ("::1", 80)),
        ([*PYTHON, "serve", "signs.onnx", "--host", "10.0.0.7"], ("10.0.0.7", 8501)),
    ],
)
def test_the_server_is_found_by_the_command_of_the_container(command, place):
    assert served_at(command) == place


def test_a_container_is_as_healthy_as_its_server(server):
    serving = [*PYTHON, "serve", "signs.onnx", "--port"]
    assert is_healthy([*serving, str(server.port)])
    assert not is_healthy([*serving, "1"]) and not is_healthy([*serving, "many"]) and not is_healthy(serving)
    assert is_healthy(["resight", "train"])
