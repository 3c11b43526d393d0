"""How long the page takes from its address to the first thought, and to a solved puzzle, and its bytes.

    python benchmarks/page.py [--site site] [--loads 9]

Every load has a browser context of its own, so nothing is in its cache. Times are those of the page's own
clock, from the start of the navigation; the server of files is this process. Needs playwright and Chromium.
"""

import functools
import http.server
import shutil
import statistics
import threading
from pathlib import Path
from typing import Any

import tyro

MARKS = """
document.addEventListener("DOMContentLoaded", () => {
  const watch = (id, name, reached) => {
    const element = document.getElementById(id);
    const seen = new MutationObserver(() => {
      if (!reached(element)) return;
      seen.disconnect();
      performance.mark(name);
    });
    seen.observe(element, { attributes: true });
  };
  watch("scrubber", "thought", (scrubber) => scrubber.max > 0);
  watch("verdict", "solved", (verdict) => verdict.className === "right");
});
"""
TIMES = """() => {
  const at = (name) => performance.getEntriesByName(name)[0].startTime;
  const files = performance.getEntriesByType("resource").map((file) => [file.name, file.responseEnd]);
  return { thought: at("thought"), solved: at("solved"), files };
}"""


class Files(http.server.SimpleHTTPRequestHandler):
    """A server of static files without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main(site: Path = Path("site"), loads: int = 9) -> None:
    """Load a site again and again.

    Args:
        site: A folder that `trm page` wrote.
        loads: How often.
    """
    from playwright.sync_api import sync_playwright

    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    handler = functools.partial(Files, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as api:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = shutil.which("chromium")
        browser = api.chromium.launch(executable_path=path, args=["--no-sandbox"])
        rows = []
        for _ in range(loads):
            context = browser.new_context()
            page = context.new_page()
            page.add_init_script(MARKS)
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function("performance.getEntriesByName('solved').length", timeout=120_000)
            rows.append(page.evaluate(TIMES))
            context.close()
        browser.close()
        server.shutdown()
    print(f"{site}: {size / 1e6:.1f} MB, {loads} loads")
    for name in ("thought", "solved"):
        values = [row[name] for row in rows]
        print(f"{name:>8}: {min(values):6.0f} ms at best, {statistics.median(values):6.0f} ms as a rule")
    best = min(rows, key=lambda row: row["thought"])
    for name, end in best["files"]:
        print(f"{end:10.0f} ms  {name.split('/', 3)[-1]}")


if __name__ == "__main__":
    tyro.cli(main)
