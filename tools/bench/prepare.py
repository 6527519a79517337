"""Measures anneal-prepare; run by tools/bench/prepare, whose --help says what."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time


def write_rows(path, size):
    """Conversations of two to eight messages, some in other scripts; no two are equal."""
    chance = random.Random(7)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randrange(2, 9))) for _ in range(5000)]
    words += ["naïve", "東京", "привет", "😀", "def", "return", "{}", "42"]
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            roles = ["user", "assistant"] * chance.randrange(1, 5)
            messages = [{"role": role, "content": " ".join(chance.choices(words, k=chance.randrange(5, 80)))} for role in roles]
            written += file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def measure(program, model, data, threads):
    """(data report, seconds, largest resident bytes)"""
    began = time.monotonic()
    command = [program, "check", data, "--model", model, "--threads", str(threads), "--output", "json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    report = json.load(child.stdout)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, report["issues"][:3]
    return report, time.monotonic() - began, usage.ru_maxrss * 1024


def main():
    program, model, megabytes, thread_list = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="anneal-bench-") as folder:
        data = os.path.join(folder, "rows.jsonl")
        write_rows(data, int(megabytes) << 20)
        print("threads      rows/s    tokens/s   ratio   largest memory")
        first = None
        for threads in map(int, thread_list.split(",")):
            report, seconds, memory = measure(program, model, data, threads)
            rows, tokens = report["train"]["rows"], report["train"]["tokens"]
            first = first or seconds
            print(f"{threads:7}  {rows / seconds:10,.0f}  {tokens / seconds:10,.0f}  {first / seconds:6.2f}  {memory / 2**20:11,.0f} MiB")
        print(f"{os.path.getsize(data) / 2**20:,.0f} MiB, {rows:,} rows, {tokens:,} tokens")


if __name__ == "__main__":
    main()
