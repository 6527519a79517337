"""Writes plans.txt beside itself: step plans computed from their definition (common/plan/step_plan.h, permutation.h).

For each plan one line `plan SEED BATCH_SIZE LOGICAL_SHARDS EPOCHS MAX_STEPS`, one line `sizes TOKENS/SUPERVISED ...` of the rows,
and for each step one line `STEP EPOCH ROWS | ROWS | ...` with the rows of each logical shard.
"""

import random
from pathlib import Path

MASK = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
ROUNDS = 8


def finalise(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def mix(a, b):
    return finalise(finalise((a + GOLDEN_GAMMA) & MASK) ^ b)


def permuted(index, size, key):
    """A Feistel network of eight rounds on the smallest even number of bits, walked until the value is below size."""
    half = 1
    while 1 << (2 * half) < size:
        half += 1
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for i in range(ROUNDS):
            left, right = right, left ^ (mix((key + i * GOLDEN_GAMMA) & MASK, right) & low)
        index = left << half | right
        if index < size:
            return index


def dealt(batch, sizes, shards):
    """Longest first to the shard with the fewest tokens; ties to the earlier row and the lower shard."""
    load, shard_of = [0] * shards, {}
    for row in sorted(batch, key=lambda row: -sizes[row][0]):
        shard = load.index(min(load))
        load[shard] += sizes[row][0]
        shard_of[row] = shard
    return [[row for row in batch if shard_of[row] == shard] for shard in range(shards)]


def plan(sizes, seed, batch_size, shards, epochs, max_steps):
    per_epoch = -(-len(sizes) // batch_size)
    total = min(per_epoch * epochs, max_steps or per_epoch * epochs)
    for step in range(total):
        epoch, begin = step // per_epoch, step % per_epoch * batch_size
        batch = [permuted(i, len(sizes), mix(seed, epoch)) for i in range(begin, min(begin + batch_size, len(sizes)))]
        yield step + 1, epoch, dealt(batch, sizes, shards)


def main():
    chance = random.Random(20)
    lines = []
    for rows, seed, batch_size, shards, epochs, max_steps in [
            (1, 0, 1, 1, 2, 0), (11, 7, 4, 2, 2, 0), (37, 2**64 - 1, 16, 4, 3, 0), (64, 1, 64, 8, 2, 0), (50, 5, 3, 4, 2, 20),
            (9, 3, 16, 16, 2, 0)]:
        sizes = []
        for _ in range(rows):
            tokens = chance.choice([2, 3, chance.randint(2, 60), chance.randint(2, 2048)])
            sizes.append((tokens, chance.randrange(tokens)))
        lines.append(f"plan {seed} {batch_size} {shards} {epochs} {max_steps}")
        lines.append(" ".join(["sizes", *(f"{tokens}/{supervised}" for tokens, supervised in sizes)]))
        for step, epoch, rows_by_shard in plan(sizes, seed, batch_size, shards, epochs, max_steps):
            lines.append(f"{step} {epoch} " + " | ".join(" ".join(map(str, shard)) for shard in rows_by_shard))
    (Path(__file__).parent / "plans.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
