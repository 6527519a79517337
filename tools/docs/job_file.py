#!/usr/bin/env python3
"""Writes docs/formats/job_file.md from the comments of JobSpec in proto/anneal/v1/job.proto.

    job_file.py [--check]      --check writes nothing: exit code 1 if the page is not what it would write

Needs grpcio-tools (the build venv has it).
"""

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "formats" / "job_file.md"
PROTO = "anneal/v1/job.proto"

PREFACE = """\
# The job file

<!-- Written by tools/docs/job_file.py from proto/anneal/v1/job.proto: change that, then run it. -->

What `anneal submit JOB.yaml` reads: YAML or JSON with the fields of `anneal.v1.JobSpec` in snake_case. Enum values are written short
or in full, in any case (`cosine`, `SCHEDULE_COSINE`); durations as `90s`, `10m` or `2h`. Unknown and repeated keys, wrong types, anchors and
aliases are errors with line, column and the field that was meant. Only `model` and `data.train` are required.

```yaml
display_name: movie-sentiment
model: models/smollm2-135m-instruct     # or a folder: the command imports it
method: { lora: { rank: 16, alpha: 32 } }
data:
  train: [data/train.jsonl]             # local files are uploaded once
  validation: { files: [data/validation.jsonl] }
training: { epochs: 1, batch_size: 16, learning_rate: 2e-4 }
resources: { slots: 2, accelerator: CPU }
```

`anneal submit JOB.yaml --dry-run` shows every value that a job would run with and where it came from; `--set training.epochs=2`
overrides one. Rows of data: [data.md](../data.md).
"""

SCALARS = {
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING: "string",
    descriptor_pb2.FieldDescriptorProto.TYPE_BOOL: "true or false",
    descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE: "number",
    descriptor_pb2.FieldDescriptorProto.TYPE_INT32: "integer",
    descriptor_pb2.FieldDescriptorProto.TYPE_INT64: "integer",
    descriptor_pb2.FieldDescriptorProto.TYPE_UINT64: "integer",
}


def load():
    """(messages, enums) of job.proto, by full name: (descriptor, own comment, [member comments])."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "job.binpb"
        tools = Path(grpc_tools.__file__).parent
        code = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{tools / '_proto'}", f"-I{tools.parent}", "--include_source_info",
                            f"--descriptor_set_out={out}", PROTO])
        assert code == 0, "protoc failed"
        file = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[-1]
    comments = {tuple(location.path): " ".join((location.leading_comments + location.trailing_comments).split())
                for location in file.source_code_info.location}
    messages, enums = {}, {}

    def add_enum(enum, path, scope):
        enums[f"{scope}.{enum.name}"] = (enum, comments.get(path, ""), [comments.get((*path, 2, i), "") for i in range(len(enum.value))])

    for m, message in enumerate(file.message_type):
        name = f".{file.package}.{message.name}"
        messages[name] = (message, comments.get((4, m), ""), [comments.get((4, m, 2, f), "") for f in range(len(message.field))])
        for e, enum in enumerate(message.enum_type):
            add_enum(enum, (4, m, 4, e), name)
    for e, enum in enumerate(file.enum_type):
        add_enum(enum, (5, e), f".{file.package}")
    return messages, enums


def cell(text):
    return text.replace("|", "\\|")


def kind_of(field, message):
    repeated = field.label == field.LABEL_REPEATED
    if field.type == field.TYPE_MESSAGE:
        if field.type_name.endswith(".Duration"):
            return "duration"
        for entry in message.nested_type:
            if field.type_name.endswith("." + entry.name):  # what a map is made of
                return f"names to {SCALARS[entry.field[1].type]}s"
        return "section"
    if field.type == field.TYPE_ENUM:
        return "choice"
    return f"list of {SCALARS[field.type]}s" if repeated else SCALARS[field.type]


def choices(enum):
    """The values of an enum with their meanings, without the prefix that C++ scoping asks of them."""
    descriptor, _, comments = enum
    prefix = descriptor.value[0].name.removesuffix("UNSPECIFIED")
    said = []
    for value, comment in list(zip(descriptor.value, comments))[1:]:
        name = f"`{value.name.removeprefix(prefix)}`"
        said.append(f"{name}: {comment}" if comment else name)
    return " ".join(text if text.endswith(".") else text + "." for text in said)


def sections(messages, enums):
    """The tables, one a message, in the order in which the fields lead to them."""
    text = []
    queue = [(".anneal.v1.JobSpec", "")]
    while queue:
        name, path = queue.pop(0)
        message, comment, field_comments = messages[name]
        text.append(f"\n## {'`' + path + '`' if path else 'Top level'}\n")
        if comment and path:
            text.append(comment + "\n")
        if not message.field:
            text.append("No fields: `{}`.")
            continue
        below_this = []
        text.append("| field | type | meaning |\n|---|---|---|")
        for field, field_comment in zip(message.field, field_comments):
            said = [field_comment]
            if field.type == field.TYPE_ENUM:
                enum = enums[field.type_name]
                said += [enum[1], choices(enum)]
            if kind_of(field, message) == "section":
                below = f"{path}.{field.name}" if path else field.name
                below_this.append((field.type_name, below))
                said.append(f"See `{below}` below.")
            text.append(f"| `{field.name}` | {kind_of(field, message)} | {cell(' '.join(part for part in said if part))} |")
        queue = below_this + queue
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    page = PREFACE + sections(*load())
    if not arguments.check:
        PAGE.write_text(page)
        return 0
    if not PAGE.exists() or PAGE.read_text() != page:
        print(f"{PAGE.relative_to(ROOT)} is stale: run tools/docs/job_file.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
