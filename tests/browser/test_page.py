"""The chat page as a person uses it, in a real browser against a real router and worker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Request, Route, expect

from tests.browser.conftest import SAY, Shown, deployment

# One browser for the module: starting it takes longer than most of these tests.
pytestmark = [pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

TOOLS = '[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]'


async def test_an_answer_streams_with_its_thought_folded(shown: Shown):
    """A thought is shown while it comes, folded with its time after; the answer follows with counts and speed."""
    shown.engine.hold(after=4)
    await shown.ask("Hello")
    await expect(shown.page.locator(".thought summary")).to_have_text("Thinking…")
    shown.engine.release()

    assert "你好 and more." in await shown.answered()
    await expect(shown.page.locator(".thought summary")).to_contain_text("Thought for")
    await expect(shown.page.locator(".thought .text")).not_to_be_visible()
    await shown.page.click(".thought summary")
    await expect(shown.page.locator(".thought .text")).to_contain_text("Let me see.")
    await expect(shown.page.locator(".message.assistant .actions")).to_contain_text("tokens")


async def test_markdown_and_code_with_copy(shown: Shown):
    """Markdown becomes nodes, and code has a button that copies it."""
    await shown.ask(SAY + "# Title\n\n**bold** and\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    await shown.answered()

    answer = shown.page.locator(".message.assistant .answer")
    await expect(answer.locator("h1")).to_have_text("Title")
    await expect(answer.locator("strong")).to_have_text("bold")
    await expect(answer.locator("td")).to_have_count(2)
    await answer.locator("pre .copy").click()
    await expect(answer.locator("pre .copy")).to_have_text("Copied")
    assert await shown.page.evaluate("navigator.clipboard.readText()") == "print(1)\n"


HOSTILE = (
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'><svg onload='window.hit = 3'></svg>\n\n"
    "[click](javascript:window.hit=4) [data](data:text/html,<script>window.hit=5</script>) "
    "![spy](http://127.0.0.1:9/secret.png)\n\n<iframe src='javascript:window.hit=6'></iframe>"
    "<style>body{display:none}</style><form action='http://127.0.0.1:9/'><input name=q><button>go</button></form>\n\n"
    "`<b onclick=window.hit=7>` <a href='#' onclick='window.hit=8'>x</a> [ok](https://example.invalid/)"
)


async def test_hostile_answers_do_not_run(shown: Shown):
    """HTML, scripts, handlers, frames, forms and foreign images in an answer stay text; links leave safely."""
    wanted: list[str] = []

    def note(request: Request) -> None:
        wanted.append(request.url)

    shown.page.on("request", note)
    await shown.ask(SAY + HOSTILE)
    await shown.answered()

    assert await shown.page.evaluate("window.hit") is None
    answer = shown.page.locator(".message.assistant .answer")
    for tag in ("script", "img", "svg", "iframe", "style", "form", "button:not(.copy)", "[onclick]"):
        await expect(answer.locator(tag)).to_have_count(0)
    links = await answer.locator("a").evaluate_all("links => links.map(a => [a.getAttribute('href'), a.rel])")
    assert [link for link in links if link[0]] == [["https://example.invalid/", "noopener noreferrer nofollow"]]
    assert all(url.startswith(shown.url) for url in wanted)
    await expect(answer).to_contain_text("<script>window.hit = 1</script>")


async def test_one_line_of_a_megabyte(shown: Shown):
    """A huge line is shown as plain text and the page goes on working."""
    await shown.page.evaluate(
        """() => { const real = window.fetch; window.fetch = (path, options) => {
            if (!String(path).includes('chat/completions')) return real(path, options);
            window.fetch = real;
            const chunk = JSON.stringify({choices: [{index: 0, delta: {content: 'x'.repeat(1 << 20)}}]});
            return Promise.resolve(new Response(`data: ${chunk}\\n\\ndata: [DONE]\\n\\n`)); } }"""
    )
    await shown.ask("long")

    assert len(await shown.answered()) == 1 << 20
    await expect(shown.page.locator(".message.assistant .plain")).to_have_count(1)
    await shown.page.click("#new")  # as history it would not fit the model's window
    await shown.ask(SAY + "still here")
    assert await shown.answered() == "still here"


async def test_stop_regenerate_edit(shown: Shown):
    """Esc stops an answer and its engine's work; it can be made again; a question can be edited and sent again."""
    shown.engine.hold(after=6)
    await shown.ask(SAY + "one two three four five six seven eight nine ten")
    await expect(shown.page.locator("#stop")).to_be_visible()
    await shown.page.wait_for_selector(".answer:not(:empty)")
    await shown.page.keyboard.press("Escape")
    await shown.answered()
    await expect(shown.page.locator(".message.assistant .actions")).to_contain_text("stopped")
    await shown.stack.until_idle()

    await shown.page.click("text=Regenerate")
    assert (await shown.answered()).endswith("nine ten")
    await shown.page.click(".message.user >> text=Edit")
    await shown.page.fill(".message.user textarea", SAY + "changed")
    await shown.page.click("text=Send again")
    await expect(shown.page.locator(".message.assistant .answer")).to_have_text("changed")
    assert await shown.page.locator(".message.user").count() == 1


async def test_tools_are_shown_as_calls_and_results_sent_back(shown: Shown):
    """A tool call is a card with its arguments; the person gives its result, and the model goes on."""
    await shown.page.click("#show-settings")
    await shown.page.fill("#set-tools", TOOLS)
    await shown.ask("Weather in Paris?")
    await shown.answered()
    await expect(shown.page.locator(".calls .call strong")).to_have_text("get_weather")
    await expect(shown.page.locator(".calls .call pre")).to_contain_text('"city": "Paris"')

    await shown.page.fill("form.call textarea", "21 degrees")
    await shown.page.click("text=Send results")
    assert await shown.answered(2) == "Known now: 21 degrees"


async def test_settings_reach_the_request(shown: Shown):
    """System prompt, sampling, thinking and its budget go with the request; empty fields do not."""
    sent: list[Any] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            sent.append(request.post_data_json)

    shown.page.on("request", note)
    await shown.page.click("#show-settings")
    await shown.page.fill("#set-system", "Be brief.")
    await shown.page.fill("#set-temperature", "0.5")
    await shown.page.fill("#set-max_tokens", "64")
    await shown.page.fill("#set-thinking_budget", "32")
    await shown.page.uncheck("#set-thinking")
    await shown.ask("Hello")
    await shown.answered()

    (body,) = sent
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (body["temperature"], body["max_tokens"], body["thinking_budget"]) == (0.5, 64, 32)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert not {"top_p", "seed", "tools"} & body.keys()


async def test_conversations_stay_and_leave_as_files(shown: Shown, tmp_path: Path):
    """Several conversations outlive a reload, drafts included; each can be saved as Markdown and JSON, and deleted."""
    await shown.ask(SAY + "first")
    await shown.answered()
    await shown.page.click("#new")
    await shown.ask(SAY + "second")
    await shown.answered()
    await shown.page.fill("#question", "half a thou")
    await shown.page.reload()

    await expect(shown.page.locator("#list .pick")).to_have_count(2)
    await expect(shown.page.locator("#question")).to_have_value("half a thou")
    assert await shown.answered() == "second"
    async with shown.page.expect_download() as markdown:
        await shown.page.click("#export-md")
    text = Path(await (await markdown.value).path()).read_text(encoding="utf-8")
    assert "## You\n\nSAY second\n\n## Assistant\n\nsecond" in text
    async with shown.page.expect_download() as whole:
        await shown.page.click("#export-json")
    assert json.loads(Path(await (await whole.value).path()).read_text())["messages"][1]["content"] == "second"
    await shown.page.locator("#list .drop").first.click()
    await expect(shown.page.locator("#list .pick")).to_have_count(1)
    assert await shown.answered() == "first"


async def test_a_lost_connection_is_retried(shown: Shown):
    """A refused connection and a stream that breaks are tried again; what was typed is still there."""
    tries = 0

    async def unreliable(route: Route) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            await route.abort("connectionreset")
        elif tries == 2:
            half = 'data: {"choices": [{"index": 0, "delta": {"content": "half an"}}]}\n\n'
            await route.fulfill(status=200, content_type="text/event-stream", body=half)
        else:
            await route.continue_()

    await shown.page.route("**/v1/chat/completions", unreliable)
    await shown.ask(SAY + "whole answer")
    await shown.page.fill("#question", "next question")
    for _ in range(2):
        await expect(shown.page.locator("#notice")).to_contain_text("connection was lost")
        await shown.page.click("text=Retry now")

    assert await shown.answered() == "whole answer"
    await expect(shown.page.locator("#question")).to_have_value("next question")
    await expect(shown.page.locator("#notice")).to_be_empty()
    assert tries == 3


async def test_a_key_is_asked_for(browser: Browser):
    """Where keys are set the page opens without one, asks for it, and sends what was typed once it has it."""
    async with deployment(auth__keys="[sk-right]") as (stack, engine):
        page = await browser.new_page(locale="en-US")
        await page.goto(f"http://127.0.0.1:{stack.router.http_port}/")
        await page.fill("#key", "sk-right")
        await page.click("text=Use the key")
        await page.wait_for_selector("#model:not(:empty)")
        view = Shown(stack, engine, page)
        await view.ask(SAY + "let in")
        assert await view.answered() == "let in"
        await page.close()


async def test_chinese_themes_and_narrow_screens(browser: Browser):
    """A Chinese browser gets Chinese; light and dark follow the system; a narrow screen scrolls nothing sideways."""
    async with deployment() as (stack, engine):
        context = await browser.new_context(locale="zh-CN", color_scheme="dark", viewport={"width": 360, "height": 640})
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{stack.router.http_port}/")
        view = Shown(stack, engine, page)
        await expect(page.locator("#send")).to_have_text("发送")
        await view.ask(SAY + "你好！" + "很长" * 200)
        await view.answered()

        background = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(background)
        await page.click("#theme")
        assert await page.evaluate(background) != dark
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        await page.click("#menu")
        await expect(page.locator("#side")).to_be_visible()
        await page.click("#language")
        await expect(page.locator("#send")).to_have_text("Send")
        await context.close()


async def test_keyboard_and_screen_reader(shown: Shown):
    """Everything can be reached by keyboard, every control has a name, and a finished answer is spoken."""
    await shown.page.keyboard.press("Escape")
    await shown.page.evaluate("document.activeElement.blur()")
    await shown.page.keyboard.press("/")
    await shown.page.keyboard.type(SAY + "line one")
    await shown.page.keyboard.press("Shift+Enter")
    await shown.page.keyboard.type("line two")
    await shown.page.keyboard.press("Enter")
    assert (await shown.answered()).split() == ["line", "one", "line", "two"]
    await expect(shown.page.locator("#spoken")).to_contain_text("line one")
    await shown.page.click("#show-settings")
    unnamed = await shown.page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea')]
            .filter(node => node.checkVisibility())
            .filter(node => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
            .map(node => node.outerHTML)"""
    )
    assert unnamed == []
    await shown.page.keyboard.press("Alt+n")
    await expect(shown.page.locator(".message")).to_have_count(0)


async def test_status_view(shown: Shown):
    """The status view has the worker, its load, cache hits, and the errors that happened, the newest first."""
    refused = "async path => { await fetch(path, {method: 'POST', body: '{'}); }"
    await shown.page.evaluate(refused, "/no/such/path")
    await shown.page.evaluate(refused, "/v1/chat/completions")
    shown.engine.hold(after=3)
    await shown.ask(SAY + "one two three four five")
    await shown.page.click("#show-status")

    status = shown.page.locator("#status")
    await expect(status).to_contain_text("worker-0")
    rows = status.locator("table")
    await expect(rows.nth(0).locator("td")).to_have_text(["worker-0", "ready", "1", "0", re.compile(".+")])
    shown.engine.release()
    await expect(rows.nth(0).locator("td").nth(2)).to_have_text("0")
    await expect(rows.nth(1).locator("td").nth(2)).to_have_text(re.compile(r"^\d+\.\d %$"))
    await expect(rows.nth(2).locator("tbody td:first-child")).to_have_text(["INVALID_REQUEST", "NOT_FOUND"])
    await expect(rows.nth(2).locator("tbody td:last-child").first).to_have_text(re.compile(r"\d+:\d\d"))
    await expect(shown.page.locator("#question")).not_to_be_visible()
    await shown.page.click("#show-status")
    await expect(shown.page.locator("#question")).to_be_visible()
