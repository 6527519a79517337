"""The commands of a block of shell, and whether what they ask of `anneal` is there, by its own --help."""

import functools
import re
import shlex
import subprocess

from conftest import BIN_DIR

SEPARATORS = "();<>|&\n"
# What may stand before a command.
BEFORE = {"until", "while", "if", "elif", "then", "else", "do", "!", "{", "time", "exec", "nohup"}


def commands_in(text):
    """The simple commands of a block as lists of words, those in $(...) included; without comments, redirections and here-documents."""
    text = re.sub(r"(<<-?'?(\w+)'?[^\n]*\n).*?^\2$", r"\1", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<<-?'?\w+'?", "", text.replace("\\\n", " "))
    text = re.sub(r"(?m)(^|\s)#.*$", r"\1", text)
    text = re.sub(r"\d?[<>]+&?\s*(?![(<>])[^\s();|&]+", " ", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=SEPARATORS)
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t", "", True
    words = []
    for word in [*lexer, "\n"]:
        if not set(word) <= set(SEPARATORS):
            words.append(word)
            continue
        while words and (words[0] in BEFORE or re.match(r"\w+=", words[0])):
            words.pop(0)
        if words and words[0] == "sudo":
            words = words[3:] if words[1:2] == ["-u"] else words[1:]
        if words:
            yield words
        words = []
    # In double quotes they are one word of another command.
    for quoted in re.findall(r'"[^"\n]*\$\(([^()"]+)\)[^"\n]*"', text):
        yield from commands_in(quoted)


class Help:
    """What `anneal COMMAND... --help` says."""

    def __init__(self, text):
        self.text = text
        parts = {name: "" for name in ("Positionals", "Options", "Subcommands")}
        for part in re.split(r"\n\n", text):
            name = re.match(r"(\w+):\n", part)
            if name and name.group(1) in parts:
                parts[name.group(1)] = part
        self.subcommands = set(re.findall(r"^  ([a-z]+) ", parts["Subcommands"], re.MULTILINE))
        positionals = re.findall(r"^  ([a-z_]+) [A-Z]+( \.\.\.)?( REQUIRED)?", parts["Positionals"], re.MULTILINE)
        self.least = sum(bool(required) for _, _, required in positionals)
        self.most = 99 if any(many for _, many, _ in positionals) else len(positionals)
        self.values, self.required, self.choices = {}, [], {}
        for names, rest in re.findall(r"^  (-[\w,-]+)(.*)$", parts["Options"], re.MULTILINE):
            for name in names.split(","):
                self.values[name] = re.match(r" (TEXT|INT|UINT|FLOAT)\b", rest) is not None
                if choices := re.match(r" TEXT:\{([^}]*)\}", rest):
                    self.choices[name] = choices.group(1).split(",")
            if " REQUIRED" in rest:
                self.required.append(names.split(",")[-1])


@functools.cache
def help_of(*path):
    return Help(subprocess.run([BIN_DIR / "anneal", *path, "--help"], capture_output=True, text=True, check=True).stdout)


def arguments_of(words):
    """What follows `anneal` in a command; None if it is another one."""
    if words[0] == "anneal":
        return words[1:]
    # Run by another program, as with kubectl exec; the bare word may be a namespace.
    at = [number for number, word in enumerate(words) if word.endswith("/bin/anneal")]
    return words[at[0] + 1:] if at else None


def check(words):
    """Fails unless the command is none of `anneal`'s, or one with a subcommand, flags and a number of arguments that there are."""
    arguments = arguments_of(words)
    if arguments is None:
        return
    line, path, given, flags = " ".join(words), [], 0, set()
    rest = iter(arguments)
    for word in rest:
        known = help_of(*path)
        if word.startswith("-") and word != "-":
            flag, equals, value = word.partition("=")
            source = next((h for h in (known, help_of()) if flag in h.values), None)
            assert source is not None or flag == "--version" and not path, f"{line}: no flag {flag}"
            flags.add(flag)
            if source.values[flag]:
                value = value if equals else next(rest, None)
                assert value is not None, f"{line}: {flag} without a value"
                assert value in source.choices.get(flag, [value]) or "$" in value or value.isupper(), f"{line}: {flag} is not {value}"
        elif known.subcommands and not given:
            assert word in known.subcommands, f"{line}: no command {word}"
            path.append(word)
        else:
            given += 1
    if flags & {"--help", "-h", "--help-all", "--version"}:
        return
    known = help_of(*path)
    assert path, f"{line}: wants a command"
    assert known.least <= given <= known.most, f"{line}: has {given} arguments, wants {known.least} argument(s), at most {known.most}"
    for flag in known.required:
        assert flag in flags, f"{line}: wants {flag}"
