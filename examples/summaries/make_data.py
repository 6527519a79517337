#!/usr/bin/env python3
"""Writes train.jsonl beside itself: short incident reports, a first summary that is too long, and the one sentence wanted.

Only the last turn is trained on (`train_on: LAST_TURN` in job.yaml), so the long first answer teaches nothing.
"""

import itertools
import json
from pathlib import Path

PLACES = ["the north depot", "the harbour office", "warehouse three", "the training centre"]
INCIDENTS = [
    ("a water pipe burst above the server room", "a burst pipe", "two racks were switched off in time"),
    ("the badge readers refused every card for an hour", "a badge reader failure", "guards let people in by hand"),
    ("a delivery van hit the loading gate", "a van hitting the gate", "nobody was hurt"),
    ("the heating ran at full power through the night", "runaway heating", "the valve was replaced at dawn"),
    ("a fox got into the canteen", "a fox in the canteen", "it left by the door it came in"),
]
DAYS = ["Monday", "Tuesday", "Thursday", "Saturday"]
SYSTEM = "You summarise reports. One sentence, at most fifteen words."


def make_row(place, incident, day):
    what, name, outcome = incident
    report = (f"Report from {place}. On {day} morning {what}. Staff followed the posted procedure and informed the office at once. "
              f"In the end {outcome}. The log was signed by both shift leaders and filed.")
    return {"messages": [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": report},
        {"role": "assistant", "content": f"On {day}, {what} at {place}; staff followed the procedure, and {outcome}, as both leaders signed."},
        {"role": "user", "content": "Shorter, please."},
        {"role": "assistant", "content": f"{day}, {place}: {name}; {outcome}."},
    ]}


def main():
    rows = [make_row(*parts) for parts in itertools.product(PLACES, INCIDENTS, DAYS)]
    path = Path(__file__).parent / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
