"""All four capabilities on SQLite, shared by every process of the host that opens the same folder."""

import asyncio

from deerflow_backends import NewThread, PutFact, RevisionConflict, health, open_backends


async def main() -> None:
    configuration = {
        "stream_bridge": {"backend": "sqlite", "max_events": 1_000},
        "memory": "sqlite",
        "thread_index": "sqlite",
        "counters": "sqlite",
        "connections": {"sqlite": {"path": "deerflow-data"}},
    }
    async with open_backends(configuration) as backends:
        # [memory]
        memory = await backends.memory.load("ada@example.com", agent_name="researcher")
        fact = PutFact("researcher", "fact-1", {"content": "Prefers short answers", "category": "preference"})
        try:
            await backends.memory.apply("ada@example.com", [fact], expected_revision=memory.revision)
        except RevisionConflict as conflict:
            print(f"somebody was faster, read again: {conflict}")
        found = await backends.memory.search("ada@example.com", "short answer", agent_name="researcher")
        # [end]
        print([match.fact.fact_id for match in found])

        # [threads]
        await backends.thread_index.create(NewThread("thread-1", "ada@example.com", display_name="Tides"))
        await backends.thread_index.update("thread-1", user_id="ada@example.com", status="running")
        page = await backends.thread_index.list("ada@example.com", limit=20)
        # [end]
        print([(thread.thread_id, thread.status) for thread in page.items], page.next_cursor)

        # [counters]
        await backends.counters.record("gpt-x", calls=1, successes=1)
        verdict = health(await backends.counters.window("gpt-x", seconds=300), min_calls=1)
        # [end]
        print(verdict.state, "-", verdict.reason)


asyncio.run(main())
