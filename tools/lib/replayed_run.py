"""A job's model in transformers and peft, trained again with autograd and torch's AdamW, one unpacked row at a time."""

import peft
import torch
import transformers
from philox import dropout_keeps, initial_lora_a
from safetensors.torch import load_file

PREFIX = "base_model.model."


class KeyedDropout(torch.nn.Module):
    """Stands in for peft's dropout in front of one module, with the masks that the job drew."""

    def __init__(self, seed, module, rate):
        super().__init__()
        self.seed, self.module, self.rate = seed, module, rate
        self.step = self.row = None  # to be set before each row

    def forward(self, x_1TD):
        keeps = dropout_keeps(self.seed, self.step, self.module, self.rate, self.row, x_1TD.shape[1:])
        return x_1TD * torch.from_numpy(keeps) / (1 - self.rate)


class ReplayedRun:
    """`primary`: the exported adapter/ or model/; of an adapter it is the configuration that is used, never the values."""

    def __init__(self, base_model, primary, settings):
        self.primary, self.settings = primary, settings
        self.is_lora = primary.name == "adapter"
        self.model = transformers.AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        self.dropouts = []
        if self.is_lora:
            self.add_adapter()
        self.model.eval()  # there is no dropout but the adapter's, which is keyed
        # Weight decay is skipped where transformers' Trainer skips it.
        decayed = set(transformers.Trainer.get_decay_parameter_names(None, self.model))
        trainable = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.trainable = list(trainable.values())
        self.optimizer = torch.optim.AdamW(
            [{"params": [value for name, value in trainable.items() if (name in decayed) == decay],
              "weight_decay": settings["weight_decay"] if decay else 0.0} for decay in (True, False)],
            betas=(settings["adam_beta1"], settings["adam_beta2"]), eps=settings["adam_epsilon"])

    def add_adapter(self):
        config = peft.PeftConfig.from_pretrained(self.primary)
        config.inference_mode = False
        self.model = peft.get_peft_model(self.model, config)
        seed = self.settings["seed"]
        for name, parameter in self.model.named_parameters():
            if ".lora_A." in name:
                plain = name.removeprefix(PREFIX).replace(".default", "")
                parameter.data = torch.from_numpy(initial_lora_a(seed, plain, parameter.shape))
        for name, module in self.model.named_modules():
            if config.lora_dropout > 0 and hasattr(module, "lora_dropout"):
                self.dropouts.append(KeyedDropout(seed, name.removeprefix(PREFIX), config.lora_dropout))
                module.lora_dropout["default"] = self.dropouts[-1]

    def step(self, entry, rows):
        """One update, as a ledger's line says, on `rows`: {row: (token ids, whether each counts for the loss)}.

        Returns the loss and the gradient's norm before clipping.
        """
        self.optimizer.zero_grad()
        total = 0.0
        for row, (ids, weights) in rows.items():
            for dropout in self.dropouts:
                dropout.step, dropout.row = entry["step"], row
            logits = self.model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1]
            targets, counts = torch.from_numpy(ids[1:]), torch.from_numpy(weights[1:])
            loss = torch.nn.functional.cross_entropy(logits[counts], targets[counts], reduction="sum")
            (loss / entry["supervised_tokens"]).backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.settings["max_grad_norm"] or float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = entry["learning_rate"]
        self.optimizer.step()
        return total / entry["supervised_tokens"], norm.item()

    def values(self):
        """The trained values by the names under which they are exported."""
        if self.is_lora:
            return peft.get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return dict(self.model.named_parameters())

    def exported(self):
        return {name: value for file in self.primary.glob("*.safetensors") for name, value in load_file(file).items()}
