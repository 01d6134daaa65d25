"""Links between the repository's files lead somewhere."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.links import ROOT, addresses, answer, fault, links, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    faults = {link: fault(page, link) for link in links(page)}
    assert not {link: wrong for link, wrong in faults.items() if wrong}


def test_faults_are_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# One `op`, [two](b.md)\n\n```\n# not a heading, [no link](c.md)\n```\n")
    assert links(page) == ["b.md"]
    assert fault(page, "b.md") == "no such file"
    assert fault(page, "#one-op-two") is None
    assert fault(page, "a.md#not-a-heading-no-link") == "no such heading"
    assert fault(page, "https://host.invalid/a.md") is None


def test_external_addresses_are_known() -> None:
    found = set(addresses())
    assert "https://arxiv.org/abs/2507.07744" in found
    assert not any("127.0.0.1" in address for address in found)


def test_an_address_that_is_gone_is_broken_and_a_silent_one_unchecked() -> None:
    class Gone(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(200 if self.path == "/here" else 404)

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Gone)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert answer(f"{address}/here") is None
    assert str(answer(f"{address}/gone")).startswith("broken: HTTP Error 404")
    server.shutdown()
    server.server_close()
    assert str(answer(address)).startswith("unchecked")
