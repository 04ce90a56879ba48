"""Sphinx configuration: MyST pages, no extension that runs code."""

project = "moralprobe"
author = "The moralprobe authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Moral representations in language models",
    "page_width": "1100px",
}
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
