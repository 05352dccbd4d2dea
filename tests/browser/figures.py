"""The chat page's pictures, weight and first paint: `python -m tests.browser.figures FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, async_playwright

from tests.browser.conftest import CHROMIUM, Shown, deployment

_LOADS = 5
_PAINT_MS = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
_WEIGHT = "[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]"
_BYTES = f"{_WEIGHT}.filter(e => !/v1|readyz|metrics/.test(e.name)).reduce((sum, e) => sum + e.encodedBodySize, 0)"


async def figures(browser: Browser, folder: Path) -> None:
    """Prints what was measured and leaves three pictures."""
    async with deployment() as (stack, engine):
        url = f"http://127.0.0.1:{stack.router.http_port}/"
        paints = []
        for number in range(_LOADS):
            scheme: Literal["dark", "light"] = "dark" if number == 1 else "light"
            context = await browser.new_context(
                locale="en-US", color_scheme=scheme, viewport={"width": 1100, "height": 700}
            )
            page = await context.new_page()
            await page.goto(url)
            await page.wait_for_selector("#model:not(:empty)")
            await page.wait_for_function(f"({_PAINT_MS}) > 0")
            paints.append(await page.evaluate(_PAINT_MS))
            weight = await page.evaluate(_BYTES)
            if number < 2:
                shown = Shown(stack, engine, page)
                await shown.ask("Hello")
                await shown.answered()
                await page.click(".thought summary")
                await page.screenshot(path=folder / ("page-dark.png" if number else "page.png"))
            if number == 1:
                await page.evaluate("fetch('/v1/chat/completions', {method: 'POST', body: '{'})")
                await page.click("#theme")
                await page.click("#show-status")
                await page.wait_for_selector("text=INVALID_REQUEST")
                await page.screenshot(path=folder / "page-status.png")
            await context.close()
    shown_ms = ", ".join(f"{paint:.0f}" for paint in sorted(paints))
    print(f"{weight / 1000:.0f} kB; first contentful paint {shown_ms} ms")


async def main(folder: Path) -> None:
    """Runs a browser for the figures."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            await figures(browser, folder)
        finally:
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
