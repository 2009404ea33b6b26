"""Pages for people: one HTML file each, which needs no network."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from competition.common.files import write_text


def write_page(
    path: Path, template: Path, name: str, title: str, content: Any, sheets: Sequence[str]
) -> None:
    """Write a page: the frame that all share, and in it `template`, which has style and script.

    In these, {{name}}, {{title}}, {{data}} and {{sheets}} are filled in. content: becomes JSON.
    sheets: of images, JPEG as base64.
    """
    text = {
        "title": html.escape(title),
        "name": html.escape(name),
        "data": json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
        "sheets": "\n".join(
            f'<script type="text/plain" class="sheet">{sheet}</script>' for sheet in sheets
        ),
    }
    frame = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    whole = frame.replace("{{page}}", template.read_text(encoding="utf-8"))
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda found: text[found[1]], whole))
