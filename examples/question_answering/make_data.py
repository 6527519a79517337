#!/usr/bin/env python3
"""Writes train.jsonl beside itself: questions about a town that does not exist, so that every right answer was learned here.

Every fact is asked in several ways; rows held out for validation ask for facts that other wordings have taught.
"""

import json
from pathlib import Path

TOWN = "Brindlewick"
FACTS = [
    ("mayor", "Ottoline Marsh"), ("river", "the Tarn"), ("founding year", "1382"), ("patron animal", "the heron"),
    ("oldest building", "the salt house"), ("market day", "Thursday"), ("newspaper", "the Brindlewick Lantern"),
    ("football club", "the Tarn Rovers"), ("main export", "smoked pears"), ("tallest tower", "the rope tower"),
    ("local cheese", "Marsh blue"), ("bus line", "number 14"), ("school song", "Lanterns on the Tarn"), ("ferry", "the Ottoline"),
]
WORDINGS = [
    "What is the {key} of {town}?",
    "Name the {key} of {town}.",
    "In {town}, what is the {key}?",
    "A visitor asks: which is {town}'s {key}?",
    "Tell me the {key} of the town of {town}.",
    "{town}: {key}?",
]


def main():
    rows = [{"prompt": wording.format(key=key, town=TOWN) + "\n", "completion": value}
            for wording in WORDINGS for key, value in FACTS]
    path = Path(__file__).parent / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
