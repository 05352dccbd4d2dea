"""What a worker tells on its own port for metrics."""

from __future__ import annotations

import aiohttp

from tests.system.processes import free_port
from tests.worker.running import running, submit


async def told(port: int) -> dict[str, float]:
    """Every sample of this worker, by name and further labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as reply:
        text = await reply.text()
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if 'worker="w"' in line)
    return {
        name.replace('worker="w"', "").replace("{,", "{").replace(",}", "}"): float(value) for name, value in samples
    }


async def test_a_worker_counts_what_it_did():
    """Tokens both ways, each end once by its reason, the wait of whoever was started, and its state."""
    port = free_port()
    async with running(metrics__port=port, max_running=3) as worker, worker.session() as client:
        await client.send(
            submit(1, [1, 2, 3], sampling={"max_tokens": 5}),
            submit(2, [4, 5], sampling={"max_tokens": 2}),
            submit(3, []),
        )
        ends = [await client.finish_of(handle) for handle in (1, 2, 3)]
        await worker.until_idle()
        found = await told(port)

    assert [end.error_reason for end in ends] == ["", "", "INVALID_REQUEST"]
    assert found["qwenserve_engine_prompt_tokens_total{}"] == 5
    assert found["qwenserve_engine_generated_tokens_total{}"] == 7
    assert found['qwenserve_engine_requests_total{reason="length"}'] == 2
    assert found['qwenserve_engine_requests_total{reason="invalid_request"}'] == 1
    assert found["qwenserve_engine_queue_seconds_count{}"] == 2
    assert found["qwenserve_engine_max_running{}"] == 3
    assert found["qwenserve_engine_sessions{}"] == 1
    assert found["qwenserve_engine_serving{}"] == 1
    assert found["qwenserve_engine_running{}"] == found["qwenserve_engine_queued{}"] == 0
    assert found["qwenserve_engine_steps_total{}"] >= 5
