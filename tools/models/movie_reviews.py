"""Movie-review snippets rated by people (-4 very negative .. 4 very positive), and a sentiment data set made of them.

    movie_reviews.py unpack VADER_SOURCE_ARCHIVE.tar.gz OUT_DIR
    movie_reviews.py make REVIEWS_DIR OUT_DIR [--train 512] [--validation 200] [--seed 7]

`make` writes train.jsonl and validation.jsonl: chat rows with one-word answers, as many positive as negative, clear cases only
(|mean rating| >= 1), no text in both. The same arguments give the same bytes.

The data: C. J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
ICWSM 2014; MIT licence.
"""

import argparse
import io
import json
import random
import tarfile
from pathlib import Path

SNIPPETS = "movieReviewSnippets_GroundTruth.txt"
QUESTION = "Is this movie review positive or negative? Answer with one word.\n\n{}"


def unpack(archive, out_dir):
    with tarfile.open(archive) as outer:
        (name,) = [n for n in outer.getnames() if n.endswith("/hutto_ICWSM_2014.tar.gz")]
        inner_bytes = outer.extractfile(name).read()
        (licence,) = [n for n in outer.getnames() if n.endswith("/LICENSE.txt")]
        licence_text = outer.extractfile(licence).read()
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        (name,) = [n for n in inner.getnames() if n.endswith("/" + SNIPPETS)]
        text = inner.extractfile(name).read()
    out_dir.mkdir(parents=True)
    (out_dir / SNIPPETS).write_bytes(text)
    (out_dir / "LICENSE.txt").write_bytes(licence_text)


def read_reviews(folder):
    """{label: [text, ...]} of the clear cases, in file order, without repeats."""
    reviews, seen = {"positive": [], "negative": []}, set()
    for line in (folder / SNIPPETS).read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t", 2)
        text = " ".join(text.split())
        if abs(float(rating)) >= 1 and text.lower() not in seen:
            seen.add(text.lower())
            reviews["positive" if float(rating) > 0 else "negative"].append(text)
    return reviews


def make(folder, out_dir, train, validation, seed):
    chosen = {"train": [], "validation": []}
    shuffle = random.Random(seed)
    for label, texts in read_reviews(folder).items():
        shuffle.shuffle(texts)
        half_train, half_validation = train // 2, validation // 2
        chosen["train"] += [(text, label) for text in texts[:half_train]]
        chosen["validation"] += [(text, label) for text in texts[half_train:half_train + half_validation]]
    out_dir.mkdir(parents=True, exist_ok=True)
    for split, rows in chosen.items():
        shuffle.shuffle(rows)
        with open(out_dir / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for text, label in rows:
                messages = [{"role": "user", "content": QUESTION.format(text)}, {"role": "assistant", "content": label}]
                file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("unpack")
    command.add_argument("archive", type=Path)
    command.add_argument("out_dir", type=Path)
    command = commands.add_parser("make")
    command.add_argument("folder", type=Path)
    command.add_argument("out_dir", type=Path)
    command.add_argument("--train", type=int, default=512)
    command.add_argument("--validation", type=int, default=200)
    command.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.command == "unpack":
        unpack(arguments.archive, arguments.out_dir)
    else:
        make(arguments.folder, arguments.out_dir, arguments.train, arguments.validation, arguments.seed)


if __name__ == "__main__":
    main()
