"""The gallery: every image that compression changes, on one page that needs no server."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from figures.gallery.build import build_gallery
    from figures.gallery.entries import pie_entries
    from figures.gallery.exhibits import Exhibits

__all__ = ["Exhibits", "build_gallery", "pie_entries"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "build": ["build_gallery"],
        "entries": ["pie_entries"],
        "exhibits": ["Exhibits"],
    },
)
