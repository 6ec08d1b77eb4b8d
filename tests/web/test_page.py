"""A page shows texts as they are, obeys none of them, and asks for nothing outside itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from charlm.web.page import render_page

Open = Callable[[str], Any]
HOSTILE = "</script><script>document.title='hostile'</script><!-- <img src=x onerror=alert(1)> ]]> & \u2028 \ud800"


@pytest.mark.browser
def test_a_hostile_text_stays_a_text(open_page: Open) -> None:
    """The title and the data come back as they were given, and no element was made of them."""
    browser = open_page(render_page(HOSTILE, {"values": [HOSTILE, float("nan"), 1e300]}, []))
    title, heading, values, num_images = browser.execute_script(
        "const heading = document.querySelector('h1').textContent;"
        "return [document.title, heading, JSON.stringify(data.values), document.images.length]"
    )
    assert title.split() == heading.split() == HOSTILE.replace("\ud800", "?").split()
    assert (json.loads(values), num_images) == ([HOSTILE, None, 1e300], 0)
