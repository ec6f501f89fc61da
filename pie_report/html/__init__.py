"""The page a reader opens: report.json and its tables as sentences, tables and pictures."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pie_report.html.render import render_page

__all__ = ["render_page"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"render": ["render_page"]})
