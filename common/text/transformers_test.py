"""Chat templates rendered here and by transformers: expressions one by one, and templates made at random.

What Jinja renders must be rendered equally or refused by an error; what Jinja refuses must be refused. Whole templates of model
families, with tokens and masks, are in worker/prepare/transformers_test.py.
"""

import json
import os
import pathlib
import random
import re
import subprocess

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

RENDER = pathlib.Path(os.environ["ANNEAL_BIN_DIR"]) / "text_render_template"
SOURCE = pathlib.Path(os.environ["ANNEAL_SOURCE_DIR"])

CHATS = [
    {"messages": [{"role": "user", "content": " Hi é "}, {"role": "assistant", "content": "a,b,,c", "tool_calls": None}], "tools": None},
    {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "x\ny z"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"n": 3, "s": "ü\"<", "z": [1.5, None, True]}}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": {}, "a": []}}}],
    },
]


# Expressions that both sides must render alike, on the messages `m` and the tools of each chat.
EXPRESSIONS = """
m[0].content.strip()            |m[0].content.lstrip()          |m[0].content.rstrip('é ')      |m[0].content | trim
m[-1].role.upper()              |m[0]['role'][1:3]              |m[0].role[::-1]                |m[0].role[-2:]
m[0].role.capitalize()          |'ab cd'.title()                |'a,b,c'.split(',')             |'a,b,c'.split(',')[-1]
'a b  c'.split()                |'a,b,c'.split(',', 1)          |'a,b,c'.rsplit(',', 1)         |' a b  c '.rsplit()
'a b  c'.rsplit(None, 1)        |'7'.zfill(3)                   |'-7'.zfill(4)                  |'ab'.center(7)
'ab'.center(6, '*')             |'abc'.center(6, '*')           |'ab'.ljust(4, '.')             |'ab'.rjust(4)
'a-b-c'.partition('-')          |'a-b-c'.rpartition('-')        |'abc'.removeprefix('a')        |'abc'.removesuffix('c')
'abc'.find('c')                 |'abcabc'.rfind('b')            |'abcabc'.count('b')            |'abc'.index('c')
'abc'.startswith('a')           |'abc'.startswith(('x', 'a'))   |'abc'.endswith('bc')           |'a{}c{}'.format(1, 'x')
'{a}'.format(a=3)               |'%s-%d' | format('x', 3)       |'abc'.replace('b', 'x')        |'aaa'.replace('a', 'b', 2)
'a\\nb\\n'.splitlines()         |'Ab'.swapcase()                |'Ab'.lower()                   |'ÀÉ'.casefold()
'12'.isdigit()                  |'x1'.isalnum()                 |' '.isspace()                  |'ab'.isalpha()
'x'.join(['a', 'b'])            |['a', 1, none] | join('-')     |['b', 'a'] | sort              |[3, 1, 2] | sort(reverse=true)
'ß'.upper()                     |'abc' | upper                  |'x y' | title                  |'x' * 3
[1, 2] + [3]                    |(1, 2)                         |(1,)                           |[1, 'a', none, true, 1.0]
{'a': 1, 'b': [2]}              |{'a': 1} | tojson              |['é', '<'] | tojson            |{'a': {'b': []}} | tojson(indent=2)
[1, {'x': 2}] | tojson(indent=1)|{'b': 1, 'a': 2} | tojson(sort_keys=true) |{'a': 1} | tojson(separators=(',', ':')) |'é' | tojson(ensure_ascii=true)
1 / 2                           |7 // 2                         |-7 // 2                        |-7 % 3
2 ** 10                         |1e3                            |1.0                            |0.1 + 0.2
1 ~ 'a' ~ none ~ true           |1 ~ 2.0                        |'a' ~ [1, 'b']                 |not none
none                            |true and 'x'                   |'' or 'y'                      |1 if false
none is none                    |m is defined                   |zz is defined                  |zz is undefined
'x' is string                   |m[0] is mapping                |m is sequence                  |m is iterable
'x' is iterable                 |none is iterable               |1 is number                    |true is number
1 is integer                    |true is integer                |1.0 is float                   |true is boolean
3 is odd                        |4 is even                      |4 is divisibleby 2             |'a' is eq 'a'
'a' in 'cat'                    |'role' in m[0]                 |1 in [1, 2]                    |'a' not in ['b']
m | length                      |m | count                      |m | first                      |m | last
m | map(attribute='role') | list|m | selectattr('role', 'equalto', 'user') | list | length |m | rejectattr('role', '==', 'user') | map(attribute='role') | join(',') |[1, none, 2] | select | list
[[1, 2], [3]] | sum(start=[])   |[1, 2] | sum                   |[1, 2, 3] | max                |['b', 'a'] | min
[1, 2, 3] | reverse | list      |'abc' | reverse                |[1, 1, 2] | unique | list      |{'b': 1, 'a': 2} | dictsort
{'a': 1}.items() | list         |{'a': 1}.keys() | list         |{'a': 1}.values() | list       |{'a': 1} | items | list
{'a': 1}.get('b', 'z')          |m[0].get('content')            |m[0].get('nothing')            |m[0].nothing
m[0].nothing | default('d')     |none | default('d')            |none | default('d', true)      |'' | d('x', true)
'a b c' | wordcount             |'hello world' | truncate(8)    |'x' | center(5)               |'abc' | list
[1, 2, 3, 4, 5] | batch(2) | list |[1, 2, 3] | slice(2) | list  |3.7 | int                       |'12' | int
'x' | int                       |'1.5' | float                  |3.14159 | round(2)             |2.5 | round
-3 | abs                        |1234567 | filesizeformat       |'<b>' | e                      |'<b>' | escape
'<b>x</b>' | striptags          |'a\\nb' | indent(2)            |'a\\nb' | indent(2, true)       |'a b' | replace(' ', '-')
'a b' | urlencode               |none | string                  |[1] | string                    |1.0 | string
m[1].content | trim             |m[1].content                   |m[2].content                   |m[2].tool_calls
m[2].tool_calls[0].function.arguments | tojson |m[2].tool_calls[0]['function']['arguments'].items() | list |tools | tojson |tools
none | length                   |none | list                    |none | join                    |none | first
none | upper                    |none | trim                    |none + 'a'                     |'a' + 1
none | map('upper') | list      |'x' in none                    |none | tojson                  |none.x
zz.x                            |zz + 'a'                       |zz | length                    |zz | join
'%s' % 'x'                      |'%d items' % 3                 |'a' | nosuchfilter             |'a'.nosuchmethod()
5 | nosuchfilter                |namespace(a=1).a               |dict(a=1)                      |dict(a=1).a
range(3) | list                 |range(1, 6, 2) | list          |loop                           |cycler('a', 'b').next()
joiner(',')()                   |m[5]                           |m[5].x
m[0].content[100]               |'abc'[10:]                     |'abc'[5]                       |m[0].items() | list | length
{'a': 1, 'a': 2}                |'\\u00e9'                      |'it\\'s'                       |"a" 'b'
1 < 2 < 3                       |1 == 1.0                       |'a' < 'b'                      |[1] == [1]
m[0] == m[0]                    |none == false                  |true == 1                      |'1' == 1
1_000                           |0x10                           |1 if 2 else 3                  |(1 if 0 else 2) | string
raise_exception('no')           |[m[0].role, m[-1].role] | join('+') |m[:1] | length
m[1:] | map(attribute='content') | list |m[-1:][0].role         |m[0].content.strip().split(' ') | first |(m | last).role
"""
STATEMENTS = [
    "{% for x in m %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.index0 }}{{ loop.length }}{{ loop.revindex }}{% endfor %}",
    "{% for x in m %}{{ loop.previtem.role }}{{ loop.nextitem.role if loop.nextitem is defined }}{% endfor %}",
    "{% for x in m if x.role == 'user' %}{{ loop.index }}{{ x.role }}{% else %}none{% endfor %}",
    "{% for k, v in m[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in m[0] %}{{ k }}{% endfor %}",
    "{% for c in 'abc' %}{{ c }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for x in zz %}{{ x }}{% endfor %}",
    "{% for x in none %}{{ x }}{% endfor %}",
    "{% for x in tools %}{{ x.function.name }}{% endfor %}",
    "{% for x in m %}{% for c in x.tool_calls %}{{ c.function.name }}{% endfor %}{% endfor %}",
    "{% for x in m[0].nothing %}{% endfor %}ok",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in m %}{% if loop.index > 1 %}{% break %}{% endif %}{{ x.role }}{% endfor %}",
    "{% for x in m %}{% if loop.first %}{% continue %}{% endif %}{{ x.role }}{% endfor %}",
    "{% for i in range(3) %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1, [2, 3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{% for x in m | selectattr('role', 'equalto', 'user') if x.content %}{{ x.content }}{% endfor %}",
    "{% for x in (m if true else none) %}{{ x.role }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = i %}{% endfor %}{{ x }}",
    "{% set ns = namespace(n=0) %}{% for x in m %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set x %}block {{ m[0].role }}{% endset %}{{ x }}{{ x | length }}",
    "{% macro f(a, b='z') %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(5) }}",
    "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}x{% endcall %}",
    "{% if tools %}T{% elif m %}M{% else %}N{% endif %}",
    "{% if m[0].content is string and m[0].content | length > 3 %}long{% endif %}",
    "{%- if true -%}  a  {%- endif -%}  b",
    "  {% if true %}\n  a\n  {% endif %}\nb\n",
    "{% if true +%}\n a{% endif %}\n\n",
    "a\n{#- comment -#}\n b {# {{ nothing } #}c",
    "{% raw %}{{ x }}{% if %}{% endraw %}y",
    "{% with a = 1 %}{{ a }}{% endwith %}{{ a }}",
    "{% filter upper %}abc{% endfilter %}",
    "{% generation %}a{% endgeneration %}b",
    "{{ '{% generation %}' }}",
    "{{ bos_token + m[0].role + eos_token }}",
    "{{ documents is none }}{{ tools is none }}{{ add_generation_prompt }}",
    "{% set m = m[1:] %}{{ m | length }}",
    "{{ m[0].append('x') }}",
    "{% do m %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% block a %}x{% endblock %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{{ ''.__class__ }}",
    "{{ m.__len__() }}",
]
# What Jinja renders and we refuse: by an error that names what is missing, never by other text.
REFUSED = {
    "'%s' % 'x'": "formatting with % is not supported",
    "'%d items' % 3": "formatting with % is not supported",
    "'ÀÉ'.casefold()": "no method named casefold",
    "'hello world' | truncate(8)": "filter truncate is unknown",
    "1234567 | filesizeformat": "filter filesizeformat is unknown",
    "'<b>x</b>' | striptags": "filter striptags is unknown",
    "'a b' | urlencode": "filter urlencode is unknown",
    "'x' | int": "invalid float literal",
    "cycler('a', 'b').next()": "cycler is unknown",
    "joiner(',')()": "joiner is unknown",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}": "{% autoescape %} is not supported",
}


def expressions():
    """A cell ends at '|' without a space behind it; filters are written with one."""
    return [cell.strip() for line in EXPRESSIONS.strip().splitlines() for cell in re.split(r"\|(?! )", line)]


def ours(requests):
    """For each (template, chats) the answers to each chat."""
    lines = [json.dumps({"template": template, "chats": chats}) for template, chats in requests]
    done = subprocess.run([RENDER], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [[answer] * len(chats) if "error" in answer else answer["chats"] for answer, (_, chats) in zip(answers, requests, strict=True)]


def theirs(template, chat):
    """The text and None, or None and the error."""
    # apply_chat_template drops what is null before it renders.
    messages = [{key: value for key, value in message.items() if value is not None} for message in chat["messages"]]
    try:
        [text], _ = render_jinja_template([messages], tools=chat["tools"], chat_template=template, bos_token="<s>", eos_token="</s>")
        return text, None
    except Exception as error:  # whatever a template raises
        return None, error


def check(template, chat, answer, refused=None):
    text, error = theirs(template, chat)
    if error is not None:
        assert "error" in answer, f"{template}: transformers raises {error!r}, we render {answer['text']!r}"
    elif refused is not None:
        assert refused in answer.get("error", ""), f"{template}: {answer}"
    else:
        assert answer.get("text") == text, f"{template}: transformers renders {text!r}, we {answer}"


def test_expressions_and_statements():
    cells = [(cell, "{{ " + cell + " }}") for cell in expressions()] + [(cell, cell) for cell in STATEMENTS]
    assert len(cells) > 250
    assert not set(REFUSED) - {cell for cell, _ in cells}
    requests = [("{% set m = messages %}" + template, CHATS) for _, template in cells]
    for (cell, _), (template, chats), answers in zip(cells, requests, ours(requests)):
        for chat, answer in zip(chats, answers):
            check(template, chat, answer, REFUSED.get(cell))


def test_the_page_about_data_names_the_filters_that_are_missing():
    names = sorted(jinja2.filters.FILTERS)
    answers = ours([("{{ 'x' | " + name + " }}", CHATS[:1]) for name in names])
    missing = {name for name, [answer] in zip(names, answers) if f"filter {name} is unknown" in answer.get("error", "")}
    page = (SOURCE / "docs/data.md").read_text()
    listed = re.search(r"the filters (.*?)\.", page, re.S).group(1)
    assert missing == set(re.findall("`([a-z]+)`", listed))


class Maker:
    """Templates at random, of what chat templates are made of."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self):
        """A string made of the message `x`. Never a slice of what is not there: an error in Jinja, empty in minijinja."""
        pick = self.random.choice
        base = pick(["x.content | default('')", "x['content'] or 'é'", "x.role", "'<|' + x.role + '|>'", "'assistant'", "(x.content or '')", "x.name | default('n')"])
        base = f"({base})"
        for _ in range(self.random.randrange(3)):
            base += pick(
                [".strip()", ".lstrip('\\n ')", ".rstrip()", " | trim", ".upper()", ".split(',')[0]", ".split('y')[-1]", ".replace(' ', '_')",
                 "[1:]", "[:-1]", "[::-1]", " | upper", " | replace('a', 'bb')", ".split() | join('+')", " | capitalize", ".title()", " | tojson"]
            )  # fmt: skip
            base = f"({base})"
        return base

    def condition(self):
        return self.random.choice(
            ["x.role == 'user'", "x.role != 'system'", "loop.first", "not loop.last", "loop.index0 % 2 == 0", "x.content", "'a' in (x.content or '')",
             "x.content is string", "x.tool_calls is defined", "tools", "x.role in ['user', 'assistant']", "ns.n > 0", "messages | length > 2"]
        )  # fmt: skip

    def piece(self, depth):
        pick, mark = self.random.choice, lambda: self.random.choice(["", "", "-"])
        kind = self.random.randrange(8 if depth < 3 else 4)
        if kind < 3:
            return "{{" + mark() + " " + self.text() + " " + mark() + "}}"
        if kind == 3:
            return pick(["<|im_end|>\n", "\n", "  ", "\n    ", "[INST] ", "é"])
        if kind < 6:
            end = "{%" + mark() + " endif %}"
            other = "{% else " + mark() + "%}" + self.body(depth + 1) if pick([True, False]) else ""
            return "{%" + mark() + f" if {self.condition()} " + mark() + "%}" + self.body(depth + 1) + other + end
        if kind == 6:
            return "{% set ns.n = ns.n + 1 %}{{ ns.n }}"
        return "{% set y = " + self.text() + " %}{{ y ~ " + self.text() + " }}"

    def body(self, depth):
        return "".join(self.piece(depth) for _ in range(self.random.randrange(1, 4)))

    def template(self):
        loop = self.random.choice(["messages", "messages[1:]", "messages | reverse | list", "messages if x.role != 'system'"])
        return "{% set ns = namespace(n=0) %}{{ bos_token }}{% for x in " + loop + " %}\n" + self.body(0) + "\n{% endfor %}{{ ns.n }}"


@pytest.mark.parametrize("seed", range(3))
def test_random_templates(seed):
    maker = Maker(seed)
    requests = [(maker.template(), CHATS) for _ in range(150)]
    rendered = 0
    for (template, chats), answers in zip(requests, ours(requests)):
        for chat, answer in zip(chats, answers):
            check(template, chat, answer)
            rendered += "text" in answer
            for message, field, text in answer.get("parts") or []:
                assert field == "content" or field.startswith("tool_calls")
                assert field != "content" or set(text) <= set(chat["messages"][message]["content"])
    assert rendered > 150, "most templates are to render"
