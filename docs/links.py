"""A hook of mkdocs: links to files outside docs/ work in the repository; on the site only their text remains."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
