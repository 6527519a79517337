"""Anneal's keyed random numbers, from their definition (worker/trainer/kernels/philox.h) instead of its code."""

import hashlib

import numpy as np


def philox4x32(key, counters):
    """Philox4x32-10 (Salmon et al., SC 2011): counters [n, 4] of uint32 -> [n, 4]."""
    c = [counters[:, i].astype(np.uint64) for i in range(4)]
    k = [np.uint64(key[0]), np.uint64(key[1])]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k[0], p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, axis=1).astype(np.uint32)


def key_of(seed, number, name):
    digest = hashlib.sha256(f"{seed}/{number}/{name}".encode()).hexdigest()
    return int(digest[0:8], 16), int(digest[8:16], 16)


def uniform(words):
    """In [0, 1), multiples of 2^-24."""
    return (words >> 8).astype(np.float32) * np.float32(2.0**-24)


def initial_lora_a(seed, name, shape):
    """The first values of tensor `name`: uniform in +-1/sqrt(in_features)."""
    count = shape[0] * shape[1]
    counters = np.zeros(((count + 3) // 4, 4), np.uint32)
    counters[:, 0] = np.arange(len(counters))
    drawn = uniform(philox4x32(key_of(seed, 0, name), counters).reshape(-1)[:count]).astype(np.float64)
    return ((2 * drawn - 1) / np.sqrt(shape[1])).astype(np.float32).reshape(shape)


def dropout_keeps(seed, step, module, rate, source_row, shape):
    """Which features [tokens, features] of a whole data row dropout keeps in front of `module` in a step."""
    tokens, features = shape
    groups = (features + 3) // 4
    counters = np.zeros((tokens, groups, 4), np.uint32)
    counters[:, :, 0] = np.arange(groups)
    counters[:, :, 1] = np.arange(tokens)[:, None]
    counters[:, :, 2] = source_row & 0xFFFFFFFF
    counters[:, :, 3] = source_row >> 32
    words = philox4x32(key_of(seed, step, module), counters.reshape(-1, 4))
    return uniform(words).reshape(tokens, groups * 4)[:, :features] >= np.float32(rate)
