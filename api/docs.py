"""``/openapi.json`` and ``/docs``: Swagger UI from its package, nothing from the internet."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from swagger_ui_bundle import swagger_ui_path

from footfall.api.answers import Answer, encode_json
from footfall.api.files import CONTENT_TYPES, DOCS_POLICY, file_answer
from footfall.api.openapi import openapi

VIEWER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Footfall: HTTP</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

# The packaged viewer knows OpenAPI up to 3.0 and refuses the number 3.1. The document uses
# nothing that 3.0 would show otherwise, so only the number is changed, and only here.
_START = b"""fetch("/openapi.json")
  .then((response) => response.json())
  .then((description) => {
    SwaggerUIBundle({
      spec: { ...description, openapi: "3.0.3" },
      dom_id: "#docs",
      deepLinking: true,
      validatorUrl: null,
    });
  });
"""


def package_version() -> str:
    """Return the version of Footfall, also where it runs from its sources."""
    try:
        return version("footfall")
    except PackageNotFoundError:
        return "0.1.0"


def description() -> Answer:
    """Return the answer of ``/openapi.json``."""
    return file_answer("openapi.js", encode_json(openapi(package_version())), DOCS_POLICY)


def docs_files() -> dict[str, Answer]:
    """Return the page (at "") and the viewer's files, by path below ``/docs/``."""
    files = {"": file_answer("index.html", _PAGE, DOCS_POLICY)}
    files["start.js"] = file_answer("start.js", _START, DOCS_POLICY)
    for name in VIEWER_FILES:
        assert name.rpartition(".")[2] in CONTENT_TYPES
        files[name] = file_answer(name, (swagger_ui_path / name).read_bytes(), DOCS_POLICY)
    return files
