"""Damaged files of every kind: ``python -m tests.fuzz --mutations 10000 --seed 0``.

Each is read in a process with a bound on its memory and time. Allowed are the right result and an `AudioVQError`;
anything else is reported with the seed that makes the file again: other exceptions, other results of files that have
checksums, crashes, hangs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from audiovq.bitstream.container import ContainerReader, ContainerWriter, End, Header
from audiovq.bitstream.container import Packet as Record
from audiovq.errors import AudioVQError
from tests.fuzz.seeds import Seed, make_seeds

MEMORY = 1 << 30
SECONDS = 10
_HEAD = 96
_NUMBERS = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes, half of them near the beginning."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not found:
            break
        at = rng.randrange(min(len(found), _HEAD) if rng.random() < 0.5 else len(found))
        length = rng.choice([1, 2, 4, 8, 50, 1000])
        match rng.randrange(8):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at] = rng.randrange(256)
            case 2:
                found[at : at + 4] = rng.choice(_NUMBERS).to_bytes(4, rng.choice(["little", "big"]))
            case 3:
                del found[at : at + length]
            case 4:
                found[at:at] = found[at : at + length]
            case 5:
                found[at:at] = rng.randbytes(length)
            case 6:
                found[at : at + length] = bytes([rng.choice([0, 255])]) * length
            case 7:
                del found[at:]
    return bytes(found)


def rewrite(data: bytes, rng: random.Random) -> bytes:
    """An .avq file whose content was changed and whose checksums are right."""
    reader = ContainerReader(io.BytesIO(data))
    header, out = reader.header, io.BytesIO()
    records = list(reader.records(lambda length, short: length < 1 << 20))
    body = mutate(header.body, rng)[: 1 << 16] if rng.random() < 0.6 else header.body
    flags = header.flags ^ (1 << rng.randrange(3) if rng.random() < 0.1 else 0)
    writer = ContainerWriter(out, Header(header.media, header.model_hash, body, flags))
    for record in records:
        if isinstance(record, Record):
            payload = mutate(record.payload, rng) if rng.random() < 0.3 else record.payload
            for _ in range(rng.choice([1, 1, 1, 1, 0, 2])):
                writer.write_packet(payload or b"\0", record.short ^ (rng.random() < 0.05))
        elif isinstance(record, End):
            writer.finish(rng.choice([record.extent] * 4 + [*_NUMBERS, 16_000 * 86_400 * 365, (1 << 62) - 1]))
    return out.getvalue()


def case_of(seeds: list[Seed], number: int, seed: int) -> tuple[Seed, bytes]:
    """A damaged file; number and seed alone decide which."""
    rng = random.Random(f"{seed} {number}")
    of = seeds[number % len(seeds)]
    if of.data[:3] == b"AVQ" and rng.random() < 0.5:
        return Seed(of.name, of.data, of.reads), rewrite(of.data, rng)
    return of, mutate(of.data, rng)


def bound_memory() -> None:
    """Let this process have no more than 1 GiB beyond what it has, where the system tells what it has."""
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def run(first: int, last: int, seed: int) -> int:
    """Read the damaged files ``first`` to ``last - 1``; the numbers of those at work go to standard output."""
    seeds, counts, faults = make_seeds(), Counter[str](), 0
    right = {of.name: [read(of.data) for read in of.reads] for of in seeds}

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    bound_memory()
    for number in range(first, last):
        of, data = case_of(seeds, number, seed)
        print(f"at {number} ({of.name})", flush=True)
        for i, read in enumerate(of.reads):
            signal.alarm(SECONDS)
            try:
                found = read(data)
                counts["right" if found == right[of.name][i] else "accepted"] += 1
                if of.is_checked and found != right[of.name][i]:
                    raise AssertionError("damage was not detected")
            except AudioVQError as error:
                counts["detected"] += 1
                if "\n" in str(error).strip():
                    print(f"FAULT {number} ({of.name}): a message of several lines", flush=True)
                    faults += 1
            except BaseException as error:
                print(f"FAULT {number} ({of.name}): {type(error).__name__}: {error}", flush=True)
                faults += 1
            finally:
                signal.alarm(0)
    print(f"SUM {dict(counts)}", flush=True)
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="The first number, to read one file again.")
    parser.add_argument("--save", type=Path, help="Write the first file here and end.")
    parser.add_argument("--here", action="store_true", help="In this process.")
    arguments = parser.parse_args()
    last = arguments.first + arguments.mutations
    if arguments.save:
        arguments.save.write_bytes(case_of(make_seeds(), arguments.first, arguments.seed)[1])
        return 0
    if arguments.here:
        return min(run(arguments.first, last, arguments.seed), 1)
    faults, first, totals = 0, arguments.first, Counter[str]()
    while first < last:
        # Processes end now and then, so that what one case leaves behind does not add up.
        size = min(2000, last - first)
        command = [sys.executable, "-m", "tests.fuzz", "--here", "--seed", str(arguments.seed)]
        command += ["--first", str(first), "--mutations", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60 + size * SECONDS)
        lines = done.stdout.splitlines()
        found = [line for line in lines if line.startswith("FAULT")]
        print(*found, sep="\n", end="\n" * bool(found))
        faults += len(found)
        if lines and lines[-1].startswith("SUM"):
            totals.update(eval(lines[-1][4:]))
            first += size
            continue
        crashed = next((line for line in reversed(lines) if line.startswith("at ")), "at the start")
        print(f"CRASH {crashed}: exit code {done.returncode}")
        faults += 1
        if crashed == "at the start":
            break
        first = int(crashed.split()[1]) + 1
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    print(f"{arguments.mutations} files, seed {arguments.seed}, fuzzer {digest}: {dict(totals)}, {faults} faults")
    return min(faults, 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
