"""A deployment with a scripted engine, and a real Chromium that looks at its page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

pytest.importorskip("playwright", reason="playwright is not installed: `scripts/test-browser` installs it")

from playwright.async_api import Browser, Page, async_playwright

from qwenserve.text.assets import load_assets
from qwenserve.worker.engine_choice import BuiltEngine
from tests.system.scripted_engine import ScriptedEngine, answer_to
from tests.system.stack import TINY, Stack, running_stack, stack_config

CHROMIUM = os.environ.get("QWENSERVE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or ""
# A user's text that begins so is what the engine says, so that a test decides what the page is given.
SAY = "SAY "
WINDOW = 200_000


def spoken(prompt: str) -> str:
    """Returns what the last user message orders, or what the scripted engine says otherwise."""
    asked = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    return asked[len(SAY) :] if asked.startswith(SAY) else answer_to(prompt)


class HeldEngine(ScriptedEngine):
    """Stops for `release` after `hold_after` tokens, where that is set."""

    hold_after: int | None = None
    stepped = 0

    def _wake(self) -> None:
        if self.hold_after is None or self.stepped < self.hold_after:
            super()._wake()

    def _step(self) -> None:
        self.stepped += 1
        super()._step()

    def abort(self, key: int) -> None:
        self.release()
        super().abort(key)

    def hold(self, after: int) -> None:
        self.stepped, self.hold_after = 0, after

    def release(self) -> None:
        self.hold_after = None
        self._wake()


class Shown(NamedTuple):
    """A deployment and its page."""

    stack: Stack
    engine: HeldEngine
    page: Page

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.stack.router.http_port}"

    async def ask(self, text: str) -> None:
        """Types a question and sends it."""
        await self.page.fill("#question", text)
        await self.page.press("#question", "Enter")

    async def answered(self, count: int = 1) -> str:
        """Returns the last answer's text once `count` answers are complete."""
        await self.page.wait_for_function(
            "count => document.querySelectorAll('.message.assistant .actions').length === count"
            " && document.getElementById('stop').hidden",
            arg=count,
        )
        return str(await self.page.locator(".message.assistant .answer").last.inner_text())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium found; install one, or name it in QWENSERVE_CHROMIUM")
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def deployment(**overrides: Any) -> AsyncIterator[tuple[Stack, HeldEngine]]:
    """Runs a router and a worker with the scripted engine."""
    assets = load_assets(TINY)
    engine = HeldEngine(assets.tokenizer, min(assets.eos_token_ids), max_model_len=WINDOW, answer=spoken)
    config = stack_config(**{"model__max_model_len": WINDOW, **overrides})
    async with running_stack(config, built=BuiltEngine(engine, "")) as stack:
        yield stack, engine


@pytest_asyncio.fixture(loop_scope="module")
async def shown(browser: Browser) -> AsyncIterator[Shown]:
    async with deployment() as (stack, engine):
        context = await browser.new_context(locale="en-US")
        await context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = await context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(f"http://127.0.0.1:{stack.router.http_port}/")
        await page.wait_for_selector("#model:not(:empty)")
        yield Shown(stack, engine, page)
        await context.close()
        assert problems == []
