"""Tiny random models and data sets, made at test time: seconds to train, every part of the path real."""

import json
import random
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = "the a cat dog bird sat ran flew on under over mat tree house red blue green good bad fine poor great awful".split()


def make_tokenizer(folder, chat_template=CHATML):
    """A byte-level BPE with ChatML's special tokens, saved as a Hugging Face tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    text = random.Random(0)
    tokenizer.train_from_iterator((" ".join(text.choices(WORDS, k=12)) for _ in range(400)), trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token="<|endoftext|>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return fast


FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


def make_model(folder, family="llama", seed=0, tied=True, **overrides):
    """A random model with grouped heads in `folder`, with tokenizer; returns the transformers model (fp32)."""
    folder = Path(folder)
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    settings = dict(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=tied, bos_token_id=0, eos_token_id=2, pad_token_id=0, initializer_range=0.05)
    settings.update(overrides)
    make_config, make_causal = FAMILIES[family]
    model = make_causal(make_config(**settings)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms begin as ones and biases as zeros, which would hide them
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def make_llama(folder, seed=0, tied=True, **overrides):
    return make_model(folder, "llama", seed, tied, **overrides)


def write_chat_rows(path, rows, seed=1):
    """`rows` chat rows whose one-word answer follows from a word in the question; distinct, in random order."""
    chance = random.Random(seed)
    seen = set()
    with open(path, "w", encoding="utf-8") as file:
        while len(seen) < rows:
            words = chance.choices(WORDS[:17], k=chance.randint(3, 14)) + [chance.choice(["good", "bad"])]
            chance.shuffle(words)
            question = " ".join(words)
            if question in seen:
                continue
            seen.add(question)
            answer = "great" if "good" in words else "awful"
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
