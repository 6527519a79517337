"""Prepared data sets (docs/formats/prepared_dataset.md) written without anneal-prepare, for tests of the trainer alone."""

import json
import struct

import numpy

ALIGNMENT = 64


def write_prepared(path, rows, vocab_size, max_length=2048):
    """`rows`: a list of (token_ids, loss_weight), equally long lists; the first weight of a row is 0."""
    lengths = [len(ids) for ids, _ in rows]
    supervised = [sum(weights) for _, weights in rows]
    arrays = {
        "example_offsets": numpy.cumsum([0] + lengths, dtype="<i8"),
        "source_row": numpy.arange(len(rows), dtype="<i8"),
        "source_file": numpy.zeros(len(rows), dtype="<i4"),
        "supervised_tokens": numpy.array(supervised, dtype="<i4"),
        "token_ids": numpy.concatenate([numpy.array(ids, dtype="<i4") for ids, _ in rows]),
        "loss_weight": numpy.concatenate([numpy.array(weights, dtype="<u1") for _, weights in rows]),
    }
    names = {"<i8": "I64", "<i4": "I32", "|u1": "U8"}
    header = {
        "__metadata__": {
            "format": "anneal.prepared_dataset", "version": "1", "content_key": "0" * 64, "vocab_size": str(vocab_size),
            "max_length": str(max_length), "examples": str(len(rows)), "tokens": str(sum(lengths)),
            "supervised_tokens": str(sum(supervised)), "longest_example": str(max(lengths)),
        }
    }
    body = b""
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype.str], "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + array.nbytes],
        }
        body += array.tobytes()
        gap = -len(body) % ALIGNMENT
        if gap:
            header[f"__padding_{len(header)}__"] = {
                "dtype": "U8", "shape": [gap], "data_offsets": [len(body), len(body) + gap]}
            body += b"\0" * gap
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)
