"""The page /docs: the OpenAPI document for readers. It is self-contained, without scripts and external files."""

import json
from html import escape
from typing import Any

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>genrank</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #8882; padding: .7rem; overflow-x: auto } code { font-size: .9em }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0 }
</style></head><body>
"""


def page(document: dict[str, Any]) -> str:
    """HTML of an OpenAPI document as openapi.py builds it."""
    info, schemas = document["info"], document["components"]["schemas"]
    parts = [HEAD, f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"]
    parts.append('<p>Machine-readable: <a href="/openapi.json">/openapi.json</a>. Errors are an ErrorBody.</p>')
    for path, methods in document["paths"].items():
        parts += [_operation(method.upper(), path, each) for method, each in methods.items()]
    parts.append("<h2>Bodies</h2>")
    parts += [_schema(name, schema) for name, schema in schemas.items()]
    return "\n".join([*parts, "</body></html>"])


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    title = f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
    command = f"curl -s localhost:8080{path}"
    if method != "GET":
        content = operation["requestBody"]["content"]["application/json"]
        kept = f"-X {method} " if method != "POST" else ""
        command = f"curl -s {kept}localhost:8080{path} -H 'content-type: application/json' -d '"
        command += json.dumps(content["example"]) + "'"
        title += f"<p>Takes {_kind(content['schema'])}.</p>"
    answer = operation["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
    gives = f"<p>Answers {_kind(answer)}.</p>" if "$ref" in answer else ""
    return f"{title}{gives}<pre>{escape(command)}</pre>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{_kind(each)}</td>"
        f"<td>{'required' if field in required else ''}</td><td>{escape(each.get('description', ''))}</td></tr>"
        for field, each in schema.get("properties", {}).items()
    )
    about = escape(schema.get("description", ""))
    return f'<h3 id="{name}">{name}</h3><p>{about}</p><table>{rows}</table>'


def _kind(schema: dict[str, Any]) -> str:
    """A type in words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of ({_kind(schema.get('items', {}))})"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"map of text to ({_kind(values)})" if isinstance(values, dict) else "object"
    return escape(" or ".join(kind) if isinstance(kind, list) else kind)
