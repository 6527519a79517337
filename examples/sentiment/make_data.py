#!/usr/bin/env python3
"""Writes train.jsonl and validation.jsonl beside itself: short reviews with the answer positive or negative.

Reviews are put together from parts, so that no review of the validation file is a training row.
"""

import itertools
import json
import random
from pathlib import Path

SUBJECTS = ["The film", "This book", "The concert", "The new menu", "Their support line", "The hotel", "This phone", "The course"]
PRAISE = ["won me over within minutes", "is worth every cent", "made my week", "is careful work from people who care",
          "left me smiling", "does exactly what it promises"]
COMPLAINTS = ["wasted my evening", "is not worth half the price", "fell apart on the second day", "was dull from start to end",
              "left me angry", "promises much and delivers nothing"]
ENDINGS = ["I will come back.", "Tell your friends.", "I checked twice.", "My sister agrees."]
QUESTION = "Is this review positive or negative? Answer with one word.\n\n"
VALIDATION_ROWS = 48


def make_row(review, answer):
    return {"messages": [{"role": "user", "content": QUESTION + review}, {"role": "assistant", "content": answer}]}


def main():
    rows = [make_row(f"{subject} {verdict}. {ending}", answer)
            for verdicts, answer in ((PRAISE, "positive"), (COMPLAINTS, "negative"))
            for subject, verdict, ending in itertools.product(SUBJECTS, verdicts, ENDINGS)]
    random.Random(7).shuffle(rows)
    folder = Path(__file__).parent
    for name, part in (("validation", rows[:VALIDATION_ROWS]), ("train", rows[VALIDATION_ROWS:])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        print(f"{path}: {len(part)} rows")


if __name__ == "__main__":
    main()
