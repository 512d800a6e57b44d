"""Control and gateways killed at random moments: each closed record is in the ledger once, and the money adds up."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainstay.ledger.journal import Journal
from mainstay.ledger.journal_reader import JournalReader
from tests.ledger.cases import POOL, Control, opening, record
from tests.running import of_the_source

ROOT = Path(__file__).parents[2]

INGEST = """
import asyncio, sys
from pathlib import Path
from tests.ledger.cases import Control

async def main():
    control = await Control(Path(sys.argv[1]), flush_seconds=0.02, poll=0.005, turn_bytes=20_000).start()
    print("up", flush=True)
    run = asyncio.create_task(control.ingest.run())
    while not run.done():
        await control.upkeep.compact()
        await asyncio.sleep(0.01)
    await run

asyncio.run(main())
"""

GATEWAY = """
import asyncio, os, random, sys
from pathlib import Path
from mainstay.ledger.journal import Journal
from mainstay.ledger.spool import Content, ContentSpool
from tests.ledger.cases import opening, record

async def main():
    number, chance = int(sys.argv[3]), random.Random(int(sys.argv[3]))
    journal = Journal(Path(sys.argv[1]), sys.argv[4], segment_bytes=30_000, chunk=8192)
    spool = ContentSpool(journal.folder)
    out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    print("up", flush=True)
    going = []
    while True:
        for _ in range(chance.randrange(6)):
            number += 1
            journal.open(opening(number))
            going.append(number)
        chance.shuffle(going)
        for _ in range(chance.randrange(len(going) + 1)):
            n = going.pop()
            charges = {"pool": n % 13}
            content = spool.put(Content(record(n).id, 0, b"q%d" % n, b"a")) if n % 20 == 0 else None
            journal.close(record(n, charges=charges, content=content))
            journal.after_flush(lambda n=n: os.write(out, b"%d\\n" % n))
        await asyncio.sleep(0.005)

asyncio.run(main())
"""


def started(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, cwd=ROOT, env=of_the_source()
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, "it ended by itself"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("seed", range(2))
async def test_whoever_is_killed_every_finished_reply_is_in_the_ledger_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    finished: list[Path] = []
    gateways = 0

    def gateway() -> subprocess.Popen[bytes]:
        nonlocal gateways
        gateways += 1
        finished.append(tmp_path / f"replies{gateways}")
        finished[-1].touch()
        arguments = str(tmp_path / "journal"), str(finished[-1]), str(gateways * 1_000_000), f"gw{gateways}"
        return started(GATEWAY, *arguments)

    def replies() -> int:
        return sum(path.stat().st_size for path in finished)

    running = [gateway(), gateway()]
    control = started(INGEST, str(tmp_path))
    for _ in range(4):
        target = replies() + chance.randrange(500, 8000)
        deadline = time.monotonic() + 30
        while replies() < target and time.monotonic() < deadline:
            await asyncio.sleep(chance.random() * 0.01)
        killed(control)
        if chance.random() < 0.7:
            which = chance.randrange(2)
            killed(running[which])
            running[which] = gateway()
        control = started(INGEST, str(tmp_path))
    for process in running:
        killed(process)
    killed(control)

    last = await Control(tmp_path, flush_seconds=1e9).start()
    while await last.ingest.turn() or last.ingest.status().gateways:
        pass
    rows: list[dict[str, object]] = []
    cursor = None
    while True:
        page = await last.ledger.calls(limit=10_000, cursor=cursor)
        rows += page.rows
        cursor = page.cursor
        if cursor is None:
            break
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids))
    closed = {row["id"] for row in rows if row["outcome"] == "ok"}
    done = {record(int(line)).id for path in finished for line in path.read_text().split("\n")[:-1]}
    assert len(done) > 200
    assert done <= closed
    crashed = [row for row in rows if row["outcome"] == "crashed"]
    owed = sum(int(str(row["id"])[5:]) % 13 for row in rows if row["outcome"] == "ok")
    spent = await last.spent()
    assert sum(nano for (_, pool), nano in spent.items() if pool == "pool") == owed
    assert sum(nano for (_, pool), nano in spent.items() if pool == POOL) == 100 * len(crashed)
    assert await last.recovered() == {f"gw{n + 1}" for n in range(gateways)}
    status = last.ingest.status()
    assert (status.corrupt, status.dropped, status.stored) == (0, 0, len(rows))
    assert list((tmp_path / "journal").iterdir()) == []
    for row in rows:
        if row["content"] is not None:
            assert await last.content.get(str(row["id"])) is not None
    await last.close()


async def test_a_gateway_that_lives_is_never_taken_for_dead(tmp_path: Path) -> None:
    # Journals appear while control looks: at no moment is one there without its lock being held.
    control = await Control(tmp_path, flush_seconds=1e9).start()
    stop = False

    def appear() -> list[Journal]:
        made: list[Journal] = []
        while not stop and len(made) < 300:  # each holds two files open
            journal = Journal(control.journals, f"gw{len(made)}", chunk=1)
            journal.open(opening(len(made)))
            made.append(journal)
        return made

    appearing = asyncio.create_task(asyncio.to_thread(appear))
    for _ in range(15):
        await control.ingest.turn()
    stop = True
    journals = await appearing
    assert len(journals) > 5
    assert await control.recovered() == set()
    assert all(not JournalReader(journal.folder).dead() for journal in journals)
    for journal in journals:
        journal.stop()
    await control.close()
