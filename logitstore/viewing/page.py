"""The pages, each as one HTML text: style, code and data are in it, so nothing more is fetched.

The code is a handful of ES modules without a build step. Here they are joined into one script, and
its hash stands in the policy that the page is served with, or carries: no other script, no style
and no host than its own can have a part in it, whatever text a store holds.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

__all__ = ["Page", "page"]

# Of each page: its modules, those first that others import.
_MODULES = {
    "viewer": (
        "elements.js",
        "numbers.js",
        "packs.js",
        "sources.js",
        "measures.js",
        "text.js",
        "details.js",
        "curve.js",
        "finder.js",
        "plots.js",
        "viewer.js",
    ),
    "catalogue": ("elements.js", "numbers.js", "catalogue.js"),
    "login": (),
}
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[a-z]+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?function|const|class)", re.MULTILINE)
# In a script JSON ends where `</script` begins; U+2028 and U+2029 end lines in old browsers.
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}
_ESCAPES |= {0x2028: "\\u2028", 0x2029: "\\u2029"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page and the Content-Security-Policy that it is served with."""

    html: str
    policy: str


def page(kind: str, *, title: str, data: dict[str, Any], alone: bool = False) -> Page:
    """A page with the data that its code begins with.

    kind: viewer, catalogue or login.
    title: any text.
    data: an object of JSON; what it holds may be any text.
    alone: whether the page is a file of its own, which carries its policy and asks nobody.
    """
    style, script, body = _parts(kind)
    policy = _policy(style, script, alone=alone)
    carried = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    # Surrogates of odd file names have no UTF-8.
    content = content.encode(errors="replace").decode()
    return Page(
        html="\n".join(
            [
                '<!doctype html><html lang="en"><head><meta charset="utf-8">',
                carried if alone else "",
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                '<meta name="referrer" content="no-referrer">',
                '<link rel="icon" href="data:,">',
                f"<title>{_in_markup(title)}</title>",
                f"<style>{style}</style></head><body>",
                body,
                f'<script type="application/json" id="data">{content}</script>',
                f'<script type="module">{script}</script>' if script else "",
                "</body></html>\n",
            ]
        ),
        policy=policy,
    )


def _in_markup(text: str) -> str:
    return html.escape(text.encode(errors="replace").decode())


def _policy(style: str, script: str, *, alone: bool) -> str:
    rules = {
        "default-src": "'none'",
        "script-src": f"'{_hash(script)}'" if script else "'none'",
        "style-src": f"'{_hash(style)}'",
        "img-src": "data:",
        "connect-src": "'none'" if alone else "'self'",
        "base-uri": "'none'",
        "form-action": "'none'" if alone else "'self'",
    }
    if not alone:  # it has no meaning in a page
        rules["frame-ancestors"] = "'none'"
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@lru_cache
def _parts(kind: str) -> tuple[str, str, str]:
    """Style, script and body of a kind of page."""
    style = _read("base.css") + ("" if kind == "login" else _read(f"{kind}.css"))
    script = "".join(_EXPORT.sub("", _IMPORT.sub("", _read(name))) for name in _MODULES[kind])
    return style, script, _read(f"{kind}.html")


def _read(name: str) -> str:
    return (files("logitstore.viewing") / "page" / name).read_text(encoding="utf-8")
