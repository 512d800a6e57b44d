"""One gateway process of the budget race: a purse and a link, driven by lines on its standard input.

Run as a module with the socket's path and the gateway's id. ``go CALLS NANO`` lets so many calls ask at once and hold;
``settle NANO`` ends them; each is answered with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

from mainstay.access.hold import Hold
from mainstay.access.purse import Purse
from mainstay.access.rules import Claim, Rule
from mainstay.core.clock import Clock
from mainstay.core.errors import OverLimit
from mainstay.gateway.link import Link

BUDGET = Rule("team:t:usd:total", "usd", "total", 100 * 7_777_777, "the race's budget")
AT_ONCE = Rule("team:t:concurrent", "concurrent", None, 1_000, "the race's calls")


async def main(path: str, name: str) -> None:
    clock = Clock()
    purse = Purse(clock)
    link = Link(path, name, purse, load=lambda digest, body: None, digest=lambda: None)
    running = asyncio.create_task(link.run())
    while not link.connected:
        await asyncio.sleep(0.005)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"ready": name})
    holds: list[Hold] = []
    while line := (await reader.readline()).decode().split():
        if line[0] == "go":
            results = await asyncio.gather(*(one(purse, link, clock, int(line[2])) for _ in range(int(line[1]))))
            holds += [result for result in results if isinstance(result, Hold)]
            say({"passed": len(holds), "refused": sum(result is None for result in results)})
        elif line[0] == "settle":
            charged = 0
            for hold in holds:
                hold.settle(nano=int(line[1]))
                charged += sum(hold.charges.values())
            holds.clear()
            say({"charged": charged})
    running.cancel()


def say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def one(purse: Purse, link: Link, clock: Clock, nano: int) -> Hold | None:
    rules = ((BUDGET, nano), (AT_ONCE, 1))
    try:
        return await purse.acquire([Claim(rule, rule.pool("", clock.now()), units) for rule, units in rules], link.ask)
    except OverLimit as error:
        if error.code != "budget_exceeded":
            raise
        return None


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
